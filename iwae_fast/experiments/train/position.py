"""How far a run has come, in steps and epochs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ...data import ImageData
from .checkpoint import Checkpoint


@dataclass(frozen=True)
class Position:
    """Where a checkpoint is in its run."""

    step: int
    """Steps taken."""
    steps_per_epoch: int
    epochs: int
    """Those that the run is to have."""

    @classmethod
    def of(cls, checkpoint: Checkpoint, data: ImageData) -> Position:
        """Work it out from the run's own data set, whose size says how many steps an epoch has."""
        config = checkpoint.config
        observations = len(data.train) - config.validation
        return cls(checkpoint.step, -(-observations // config.batch_size), config.epochs)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def describe(self) -> str:
        """Say it in words, such as "step 58, the end of epoch 2 of 4"."""
        if self.step == 0:
            return f"step 0, before epoch 1 of {self.epochs}: an untrained model"
        whole, rest = divmod(self.step, self.steps_per_epoch)
        where = f"in epoch {whole + 1}" if rest else f"the end of epoch {whole}"
        going = "" if whole >= self.epochs else ": training has not come to its end"
        return f"step {self.step}, {where} of {self.epochs}{going}"
