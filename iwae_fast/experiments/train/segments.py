"""The objectives of a run by step, which may change when the run is resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..config import OBJECTIVE, TrainConfig

OF_BOUND = {"vr-iwae": "alpha", "jvi": "order", "miwae": "groups", "piwae": "groups", "ciwae": "beta"}
"""The setting of a bound in addition to k."""

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
        bound, further = self.settings["bound"], OF_BOUND.get(self.settings["bound"])
        words = [
            bound if further is None else f"{bound} ({further} {self.settings[further]})",
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
    if kept and kept[-1].settings == following.settings:
        return tuple(kept)
    return (*kept, following)
