"""Options that would have no effect: each is an error, since whoever gives one expects something of it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import TrainConfig

BOUNDS_OF = {"alpha": ("vr-iwae",), "order": ("jvi",), "groups": ("miwae", "piwae"), "beta": ("ciwae",)}
"""The bounds that an option of a bound belongs to."""


def check_training(given: Collection[str], config: TrainConfig) -> None:
    """Raise ValueError where one of the given settings has no effect on the run that the others make."""
    from ..protocols import PROTOCOLS

    for name, owners in BOUNDS_OF.items():
        if name in given and config.bound not in owners:
            raise ValueError(f"--{name} is an option of bound {' and '.join(owners)}: bound {config.bound!r} has none")
    if "budget" in given and config.budget is not None and config.budget > config.k:
        raise ValueError(
            f"--budget must be at most k = {config.k}, the number of samples of each observation, got {config.budget}"
        )
    one_rate = len(PROTOCOLS[config.protocol].factors) == 1
    if {"stages", "epochs"} <= set(given) and one_rate:
        raise ValueError(
            f"--stages has no effect beside --epochs: protocol {config.protocol!r} has one learning rate for all stages"
        )


def check_suffix(option: str, path: Path, *suffixes: str) -> None:
    """Raise ValueError where the name of a file says that it holds something else than what the option writes."""
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{option} must end in {' or '.join(suffixes)}, which is what it writes, got {str(path)!r}")
