"""Who is told how training goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .metrics import EpochMetrics, Means


class Live(NamedTuple):
    """How training goes, between the ends of epochs."""

    step: int
    epoch: int
    """Counted from 1."""
    means: Means
    """Over the epoch so far."""
    steps_per_second: float
    """Since training began or resumed."""


class Reporter:
    """Is told how training goes; this one keeps it to itself."""

    def started(self, step: int, total_steps: int) -> None:
        """Training begins after ``step`` earlier steps."""

    def decided(self, how: str) -> None:
        """On a GPU, how steps are taken: captured or one by one, and why; once it is known."""

    def progressed(self, live: Live) -> None:
        """Some steps were taken; called about ten times a second."""

    def epoch_ended(self, row: EpochMetrics) -> None:
        """An epoch is complete and its row written."""
