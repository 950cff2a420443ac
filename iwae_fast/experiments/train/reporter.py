"""Callbacks of a run: of its training, and of what follows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .metrics import EpochMetrics, Means
    from .selection import Best


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
    """The base class of callbacks, which ignores all events. With several processes only the first one shows them."""

    def started(self, step: int, total_steps: int) -> None:
        """Handle the start of training after ``step`` earlier steps."""

    def decided(self, how: str) -> None:
        """Handle the decision on a GPU whether steps are captured or taken one by one; ``how`` includes the reason."""

    def progressed(self, live: Live) -> None:
        """Handle progress within an epoch; called about ten times per second."""

    def epoch_ended(self, row: EpochMetrics) -> None:
        """Handle the end of an epoch, after its row is written."""

    def stopped_early(self, epoch: int, best: Best) -> None:
        """Handle the end of training before the last epoch, because none after ``best`` had a higher bound."""

    def drawn(self, step: int, *paths: Path) -> None:
        """Handle pictures of the trained model, that after ``step`` steps; some files may not exist."""

    def evaluated(self, result: dict[str, Any]) -> None:
        """Handle the evaluation after training, with the numbers of :func:`..evaluate.results.evaluate_run`."""


class Reporters(Reporter):
    """Several reporters, each of which handles every event, in this order."""

    def __init__(self, *reporters: Reporter) -> None:
        self.reporters = reporters

    def started(self, step: int, total_steps: int) -> None:
        for reporter in self.reporters:
            reporter.started(step, total_steps)

    def decided(self, how: str) -> None:
        for reporter in self.reporters:
            reporter.decided(how)

    def progressed(self, live: Live) -> None:
        for reporter in self.reporters:
            reporter.progressed(live)

    def epoch_ended(self, row: EpochMetrics) -> None:
        for reporter in self.reporters:
            reporter.epoch_ended(row)

    def stopped_early(self, epoch: int, best: Best) -> None:
        for reporter in self.reporters:
            reporter.stopped_early(epoch, best)

    def drawn(self, step: int, *paths: Path) -> None:
        for reporter in self.reporters:
            reporter.drawn(step, *paths)

    def evaluated(self, result: dict[str, Any]) -> None:
        for reporter in self.reporters:
            reporter.evaluated(result)
