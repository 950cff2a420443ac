"""Progress of a run in steps and epochs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ...data import ImageData
from .checkpoint import Checkpoint
from .selection import is_over


@dataclass(frozen=True)
class Position:
    """The position of a checkpoint in its run."""

    step: int
    """Number of steps taken."""
    steps_per_epoch: int
    epochs: int
    """Number of epochs of the whole run."""
    best: bool = False
    """True if the checkpoint was opened as that of the epoch with the highest validation bound."""
    last_step: int | None = None
    """Number of steps that the run has taken, if that is known to differ from ``step``."""
    stopped_early: bool = False
    """True if training ended before the last epoch, for lack of a better one."""

    @classmethod
    def of(cls, checkpoint: Checkpoint, data: ImageData) -> Position:
        """Compute the position; the size of the run's own data set determines the steps per epoch."""
        config = checkpoint.config
        in_epoch = -(-(len(data.train) - config.validation) // config.batch_size)
        last = checkpoint.step if checkpoint.last_step is None else checkpoint.last_step
        stopped = last // in_epoch < config.epochs and is_over(checkpoint.best, last // in_epoch, config.patience)
        best = checkpoint.last_step is not None
        return cls(checkpoint.step, in_epoch, config.epochs, best, checkpoint.last_step, stopped)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def describe(self) -> str:
        """Return the position in words, such as "step 58, the end of epoch 2 of 4"."""
        if self.step == 0:
            return f"step 0, before epoch 1 of {self.epochs}: an untrained model"
        whole, rest = divmod(self.step, self.steps_per_epoch)
        trained = (self.step if self.last_step is None else self.last_step) // self.steps_per_epoch
        remarks = [f"the best of {trained} by its validation bound"] if self.best else []
        if self.stopped_early:
            remarks.append("training stopped early")
        elif trained < self.epochs:
            remarks.append("training is not complete")
        where = f"in epoch {whole + 1}" if rest else f"the end of epoch {whole}"
        said = f": {'; '.join(remarks)}" if remarks else ""
        return f"step {self.step}, {where} of {self.epochs}{said}"
