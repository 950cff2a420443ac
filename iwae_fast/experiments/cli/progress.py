"""Progress of training and evaluation: a live bar on a terminal, plain lines elsewhere.

Both announce the expected duration once the first part of the work has been measured.
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
    from ..train.selection import Best

WIDTH_OF_A_FILE = 160

console = Console(
    highlight=False,
    soft_wrap=True,
    width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH_OF_A_FILE,
)
"""Standard output without wrapping of long paths, and wide enough in files that no numbers of tables are cut."""


class PlainReporter(Reporter):
    """A reporter for logs that prints one line per epoch, and the expected duration of training."""

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
        validation = "" if row.validation is None else f"validation {row.validation:.3f}, "
        _line(
            f"epoch {row.epoch}/{self.epochs}: bound {row.bound:.3f} nats, {validation}ess {row.ess:.2f}, "
            f"{row.steps_per_second:.1f} steps/s"
        )

    def stopped_early(self, epoch: int, best: Best) -> None:
        _line(_stopped(epoch, best))

    def _announce(self, left: float) -> None:
        _line(f"training takes about {spoken(left)}: {self.epochs} epochs, {self.forecast.total} steps")

    def _remind(self, part: float, left: float) -> None:
        _line(f"training {part:.0%}, about {spoken(left)} left")


class BarReporter(Reporter):
    """A reporter that shows a live bar over the steps of the run, with the time left."""

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

    def stopped_early(self, epoch: int, best: Best) -> None:
        self.progress.console.print(_stopped(epoch, best))

    def _show(self, step: int, epoch: int, bound: float, ess: float, rate: float) -> None:
        state = f"epoch {epoch}/{self.epochs}  bound {bound:.2f}  ess {ess:.1f}  {rate:.0f} steps/s"
        self.progress.update(self.task, completed=step, state=state)


@contextmanager
def training_progress(epochs: int) -> Iterator[Reporter]:
    """Yield a bar if standard output is a terminal, else a reporter of plain lines."""
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
    """Yield a function that starts a bar, given a name and a number of (sample, observation) pairs.

    That function returns another one, to be called with the number of pairs just evaluated.

    Args:
        pairs: the most pairs of all bars together.
        observations: number of observations of all bars together.
        k: samples per observation.
        shorter: end of the announcement of a long evaluation, which names the options that make it shorter.
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
                f"evaluation takes about {spoken(left)}: k = {k} samples for each of {observations} observations; "
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


def _stopped(epoch: int, best: Best) -> str:
    return (
        f"stopped early after epoch {epoch}: no validation bound was higher than {best.bound:.3f} nats, that of epoch "
        f"{best.epoch}"
    )


def _line(text: str) -> None:
    """Print a line and flush, so that it appears in a log immediately."""
    print(text, flush=True)
