"""How training and evaluation show their progress: a live bar on a terminal, plain lines elsewhere.

Both say how long it will take as soon as the first part of the work was measured.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..train.reporter import Live, Reporter
from .forecast import Forecast, spoken

if TYPE_CHECKING:
    from ..train.metrics import EpochMetrics

WIDTH_OF_A_FILE = 160

console = Console(
    highlight=False,
    soft_wrap=True,
    width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH_OF_A_FILE,
)
"""Standard output; a path printed to it is never broken over lines, and a table in a file keeps its numbers."""


class PlainReporter(Reporter):
    """Prints one line an epoch, for logs, and says how long training will take."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.forecast = Forecast(0, self._announce, self._remind)

    def started(self, step: int, total_steps: int) -> None:
        self.forecast.total = total_steps
        self.forecast.reach(step)

    def decided(self, how: str) -> None:
        _line(f"steps {how}")

    def progressed(self, live: Live) -> None:
        self.forecast.reach(live.step)

    def epoch_ended(self, row: EpochMetrics) -> None:
        _line(
            f"epoch {row.epoch}/{self.epochs}: bound {row.bound:.3f} nats, ess {row.ess:.2f}, "
            f"{row.steps_per_second:.1f} steps/s"
        )

    def _announce(self, left: float) -> None:
        _line(f"training takes about {spoken(left)}: {self.epochs} epochs, {self.forecast.total} steps")

    def _remind(self, part: float, left: float) -> None:
        _line(f"training {part:.0%}, about {spoken(left)} left")


class BarReporter(Reporter):
    """Shows a live bar over the steps of the run, with the time that is left."""

    def __init__(self, progress: Progress, epochs: int) -> None:
        self.progress = progress
        self.epochs = epochs
        self.task = progress.add_task("training", state="")

    def started(self, step: int, total_steps: int) -> None:
        self.progress.update(self.task, completed=step, total=total_steps)

    def decided(self, how: str) -> None:
        self.progress.console.print(f"steps {how}")

    def progressed(self, live: Live) -> None:
        self._show(live.step, live.epoch, live.means.bound, live.means.ess, live.steps_per_second)

    def epoch_ended(self, row: EpochMetrics) -> None:
        self._show(row.step, row.epoch, row.bound, row.ess, row.steps_per_second)

    def _show(self, step: int, epoch: int, bound: float, ess: float, rate: float) -> None:
        state = f"epoch {epoch}/{self.epochs}  bound {bound:.2f}  ess {ess:.1f}  {rate:.0f} steps/s"
        self.progress.update(self.task, completed=step, state=state)


@contextmanager
def training_progress(epochs: int) -> Iterator[Reporter]:
    """Yield a reporter that fits where standard output goes."""
    if not console.is_terminal:
        yield PlainReporter(epochs)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console) as progress:
        yield BarReporter(progress, epochs)


@contextmanager
def evaluation_progress(
    pairs: int, observations: int, k: int, shorter: str
) -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Yield a function that begins a bar, from a name and a number of (sample, observation) pairs, and returns a
    function to call with the number just evaluated.

    Args:
        pairs: how many there are at most, under all names together.
        observations: how many observations they are of.
        k: samples per observation.
        shorter: how to make it shorter, which the announcement of a long evaluation ends with.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def announce(left: float) -> None:
            progress.console.print(
                f"evaluation takes about {spoken(left)}: k = {k} samples of each of {observations} observations; "
                f"{shorter}"
            )

        def remind(part: float, left: float) -> None:
            _line(f"evaluation {part:.0%}, about {spoken(left)} left")

        forecast = Forecast(pairs, announce, None if console.is_terminal else remind)

        def begin(name: str, pairs: int) -> Callable[[int], None]:
            task = progress.add_task(name, total=pairs)

            def advance(done: int) -> None:
                progress.advance(task, done)
                forecast.add(done)

            return advance

        yield begin


def _line(text: str) -> None:
    """Print a line of a log, at once."""
    print(text, flush=True)
