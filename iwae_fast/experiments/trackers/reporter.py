"""The callback of training that logs to trackers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...files import read_json, reason, write_json
from ..schedules import learning_rates
from ..train.metrics import EpochMetrics, read_metrics
from ..train.reporter import Reporter
from .channel import Channel
from .table import TRACKERS

if TYPE_CHECKING:
    from ..config import TrainConfig
    from ..train.runs import Run
    from .base import Tracker

CLOSING = {
    "nll": "test/nll",
    "std_error": "test/std_error",
    "ess": "test/ess",
    "pareto_k_above_0.7": "test/pareto_k_above_0.7",
    "train_nll": "train/nll",
}
"""Numbers of an evaluation that are logged, with their names in trackers."""


class TrackingReporter(Reporter):
    """A reporter that logs the epochs of a run, its final evaluation and its pictures to trackers.

    Trackers fail for themselves: ``warn`` is called once, with a line of text, for each that does, and it logs no more.
    """

    def __init__(self, run: Run, config: TrainConfig, warn: Callable[[str], None]) -> None:
        self.run, self.config, self.warn = run, config, warn
        self._open: list[tuple[Tracker, Channel]] = []
        self._new: list[tuple[Tracker, Channel]] = []
        self._steps_per_epoch = 1

    def begin(self, name: str, identity: str | None, step: int) -> str | None:
        """Begin or continue a run in a tracker; return its identity, or None if that fails."""
        tracker = TRACKERS[name]()
        try:
            found = tracker.begin(self.run.folder, self.config.relevant(), identity, step)
            where = tracker.where()
        except Exception as error:
            self._failed(name, error)
            return None
        self.warn(f"logging to {name}: {where}")
        pair = tracker, Channel(partial(self._failed, name))
        self._open.append(pair)
        if identity is None:
            self._new.append(pair)
        return found

    def started(self, step: int, total_steps: int) -> None:  # noqa: ARG002
        self._steps_per_epoch = total_steps // self.config.epochs
        for row in read_metrics(self.run.metrics) if self._new else ():  # those of a run that was not logged before
            self._log(self._new, row)

    def epoch_ended(self, row: EpochMetrics) -> None:
        self._log(self._open, row)

    def evaluated(self, result: dict[str, Any]) -> None:
        values = {CLOSING[name]: value for name, value in result.items() if name in CLOSING and value is not None}
        if result.get("active_units") is not None:
            values["test/active_units"] = float(sum(result["active_units"]))
        for tracker, channel in self._open:
            channel.send(tracker.numbers, result["step"], values)

    def drawn(self, step: int, *paths: Path) -> None:
        for path in paths:
            for tracker, channel in self._open if path.exists() else ():
                channel.send(tracker.picture, step, path)

    def end(self, outcome: str) -> None:
        """End the runs in all trackers."""
        for tracker, channel in self._open:
            channel.send(tracker.end, outcome)
        for _, channel in self._open:
            channel.close()

    def _log(self, pairs: Sequence[tuple[Tracker, Channel]], row: EpochMetrics) -> None:
        values = {
            "epoch": float(row.epoch),
            "train/bound": row.bound,
            "train/ess": row.ess,
            "train/max_weight": row.max_weight,
            "train/seconds": row.seconds,
            "train/steps_per_second": row.steps_per_second,
            "train/learning_rate": learning_rates(self.config, row.epoch - 1, self._steps_per_epoch)[-1].item(),
        }
        if row.validation is not None and math.isfinite(row.validation):
            values["validation/bound"] = row.validation
        for tracker, channel in pairs:
            channel.send(tracker.numbers, row.step, values)

    def _failed(self, name: str, error: BaseException) -> None:
        said = " ".join((reason(error) if isinstance(error, OSError) else str(error)).split())
        self.warn(f"warning: {name} failed and logs no more of this run, which goes on: {said or type(error).__name__}")


def recorded(run: Run) -> dict[str, str]:
    """Return the identities of a run in trackers, by the names of these."""
    return read_json(run.trackers) if run.trackers.exists() else {}


@contextmanager
def tracking(
    run: Run,
    config: TrainConfig,
    names: Sequence[str],
    step: int,
    warn: Callable[[str], None],
    interruptions: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
) -> Iterator[Reporter]:
    """Yield a reporter that logs to trackers, in which the run begins, or continues after ``step`` steps.

    The run's identities in trackers are stored in its folder. With the context it ends in the trackers too: as
    "finished", as "interrupted" by an exception of ``interruptions``, or as "failed" by any other.
    """
    reporter, known = TrackingReporter(run, config, warn), recorded(run)
    for name in names:
        if (identity := reporter.begin(name, known.get(name), step)) is not None:
            known[name] = identity
    if names or known:
        write_json(run.trackers, {name: identity for name, identity in known.items() if name in names})
    outcome = "finished"
    try:
        yield reporter
    except BaseException as error:
        outcome = "interrupted" if isinstance(error, interruptions) else "failed"
        raise
    finally:
        reporter.end(outcome)
