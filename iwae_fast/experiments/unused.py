"""Checks for options that would have no effect, which are errors."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from .bound_settings import SETTINGS, bounds_with

if TYPE_CHECKING:
    from .config import TrainConfig


def check_training(given: Collection[str], config: TrainConfig) -> None:
    """Raise ValueError if one of the given settings has no effect on the run."""
    from .protocols import PROTOCOLS

    for name in SETTINGS:
        if name in given and config.bound not in (owners := bounds_with(name)):
            raise ValueError(
                f"--{name} is an option of bound {' and '.join(owners)}, and has no effect on bound {config.bound!r}"
            )
    if "budget" in given and config.budget is not None and config.budget > config.k:
        raise ValueError(
            f"--budget must be at most k = {config.k}, the number of samples per observation, got {config.budget}"
        )
    if "lr_final" in given and config.lr_schedule == "constant":
        raise ValueError("--lr-final has no effect without --lr-schedule: the learning rate is constant")
    one_rate = len(PROTOCOLS[config.protocol].factors) == 1
    if {"stages", "epochs"} <= set(given) and one_rate:
        raise ValueError(
            f"--stages has no effect beside --epochs: protocol {config.protocol!r} has one learning rate for all stages"
        )


def check_suffix(option: str, path: Path, *suffixes: str) -> None:
    """Raise ValueError if the suffix of a file is not that of the format that the option writes."""
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{option} must end in {' or '.join(suffixes)}, the format that it writes, got {str(path)!r}")
