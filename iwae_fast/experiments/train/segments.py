"""The objectives of a run by step, which may change when the run is resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..bound_settings import BOUNDS
from ..config import OBJECTIVE, TrainConfig

NAMES = tuple(name for name in OBJECTIVE if name != "chunk_size")
"""Settings that define the objective; a chunk size only saves memory."""


@dataclass(frozen=True)
class Segment:
    """The steps of a run with one objective, up to the next segment."""

    step: int
    """Number of steps before the segment."""
    settings: dict[str, Any]
    """Values of the settings in :data:`NAMES`."""

    @classmethod
    def begin(cls, step: int, config: TrainConfig) -> Segment:
        return cls(step, {name: getattr(config, name) for name in NAMES})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def describe(self) -> str:
        """Return a short description of the objective, such as "vr-iwae (alpha 0.3), k = 7, dreg, budget 2"."""
        bound = self.settings["bound"]
        own = ", ".join(f"{name} {self.settings[name]}" for name in BOUNDS[bound].settings)
        words = [
            f"{bound} ({own})" if own else bound,
            f"k = {self.settings['k']}",
        ]
        if self.settings["estimator"] != "reparameterized":
            words.append(self.settings["estimator"])
        if self.settings["budget"] is not None:
            words.append(f"budget {self.settings['budget']}")
        if self.settings["kl_warmup"]:
            words.append(f"warm-up of {self.settings['kl_warmup']} steps")
        return ", ".join(words)


def extended(segments: Sequence[Segment], step: int, config: TrainConfig) -> tuple[Segment, ...]:
    """Add a segment if a run resumes from ``step`` with another objective than before."""
    # A segment without steps is dropped.
    kept = [segment for segment in segments if segment.step < step]
    following = Segment.begin(step, config)
    # A segment from before a setting was introduced lacks it.
    if kept and {**following.settings, **kept[-1].settings} == following.settings:
        return tuple(kept)
    return (*kept, following)
