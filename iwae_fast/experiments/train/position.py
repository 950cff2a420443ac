"""Progress of a run in steps and epochs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ...data import ImageData
from .checkpoint import Checkpoint


@dataclass(frozen=True)
class Position:
    """The position of a checkpoint in its run."""

    step: int
    """Number of steps taken."""
    steps_per_epoch: int
    epochs: int
    """Number of epochs of the whole run."""

    @classmethod
    def of(cls, checkpoint: Checkpoint, data: ImageData) -> Position:
        """Compute the position; the size of the run's own data set determines the steps per epoch."""
        config = checkpoint.config
        observations = len(data.train) - config.validation
        return cls(checkpoint.step, -(-observations // config.batch_size), config.epochs)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def describe(self) -> str:
        """Return the position in words, such as "step 58, the end of epoch 2 of 4"."""
        if self.step == 0:
            return f"step 0, before epoch 1 of {self.epochs}: an untrained model"
        whole, rest = divmod(self.step, self.steps_per_epoch)
        where = f"in epoch {whole + 1}" if rest else f"the end of epoch {whole}"
        going = "" if whole >= self.epochs else ": training is not complete"
        return f"step {self.step}, {where} of {self.epochs}{going}"
