"""Callbacks of training."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .metrics import EpochMetrics, Means


class Live(NamedTuple):
    """Progress of training within an epoch."""

    step: int
    epoch: int
    """Number of the epoch, from 1."""
    means: Means
    """Means over the current epoch."""
    steps_per_second: float
    """Rate since training began or resumed."""


class Reporter:
    """The base class of training callbacks, which ignores all events."""

    def started(self, step: int, total_steps: int) -> None:
        """Handle the start of training after ``step`` earlier steps."""

    def decided(self, how: str) -> None:
        """Handle the decision on a GPU whether steps are captured or taken one by one; ``how`` includes the reason."""

    def progressed(self, live: Live) -> None:
        """Handle progress within an epoch; called about ten times per second."""

    def epoch_ended(self, row: EpochMetrics) -> None:
        """Handle the end of an epoch, after its row is written."""
