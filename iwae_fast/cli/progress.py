"""How training and evaluation show their progress: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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

from ..experiments.metrics import EpochMetrics
from ..experiments.reporter import Live, Reporter

WIDTH_OF_A_FILE = 160

console = Console(
    highlight=False,
    soft_wrap=True,
    width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH_OF_A_FILE,
)
"""Standard output; a path printed to it is never broken over lines, and a table in a file keeps its numbers."""


class PlainReporter(Reporter):
    """One line an epoch, for logs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def decided(self, how: str) -> None:
        print(f"steps {how}", flush=True)

    def epoch_ended(self, row: EpochMetrics) -> None:
        print(
            f"epoch {row.epoch}/{self.epochs}: bound {row.bound:.3f} nats, ess {row.ess:.2f}, "
            f"{row.steps_per_second:.1f} steps/s",
            flush=True,
        )


class BarReporter(Reporter):
    """A live bar over the steps of the run."""

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
    """A reporter that fits where standard output goes."""
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
def evaluation_progress() -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """A function that begins a bar, from a name and a number of (sample, observation) pairs, and returns a function to
    call with the number just evaluated."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def begin(name: str, pairs: int) -> Callable[[int], None]:
            task = progress.add_task(name, total=pairs)
            return lambda done: progress.advance(task, done)

        yield begin
