"""Results of a sweep: the trials in the order of their NLL, as data and as rows of a file."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..._version import __version__
from ..setting_text import setting_text
from ..train.metrics import read_metrics
from ..train.runs import Run
from .search import Trial
from .space import Space
from .work import SweepWork


@dataclass(frozen=True)
class RunOutcome:
    """Results of one run, None while they are missing. Likelihoods are in nats."""

    name: str
    seed: int
    nll: float | None
    """The NLL by which runs are compared."""
    test_nll: float | None
    test_std_error: float | None
    """Standard error over test observations."""
    active_units: tuple[int, ...] | None
    seconds: float | None
    """Training time."""


@dataclass(frozen=True)
class TrialOutcome:
    """Results of a trial, the means over its finished runs."""

    trial: Trial
    runs: tuple[RunOutcome, ...]

    @property
    def finished(self) -> tuple[RunOutcome, ...]:
        """The runs that have an NLL."""
        return tuple(run for run in self.runs if run.nll is not None)

    @property
    def nll(self) -> float | None:
        """The mean over seeds of the NLL by which trials are compared; None without a finished run."""
        return _mean([run.nll for run in self.finished])

    @property
    def std_error(self) -> float | None:
        """Standard error over seeds; None for fewer than two."""
        found = [run.nll for run in self.finished if run.nll is not None]
        return statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None

    @property
    def test_nll(self) -> float | None:
        """The mean over seeds of the test NLL."""
        return _mean([run.test_nll for run in self.finished])

    @property
    def seconds(self) -> float | None:
        """The mean training time of a run."""
        return _mean([run.seconds for run in self.finished])


def trial_outcome(trial: Trial, works: Sequence[SweepWork]) -> TrialOutcome:
    """Return the results of a trial from the folders of its runs."""
    return TrialOutcome(trial, tuple(map(_run_outcome, works)))


def ranked(outcomes: Sequence[TrialOutcome]) -> list[TrialOutcome]:
    """Return the trials from the lowest NLL to the highest; those without one are last."""
    return sorted(outcomes, key=lambda each: math.inf if each.nll is None else each.nll)


def content(space: Space, seeds: int, objective: str, outcomes: Sequence[TrialOutcome], command: str) -> dict[str, Any]:
    """Return a sweep and its results as JSON content."""
    return {
        "objective": objective,
        "settings": _texts(space.shared),
        "grid": {name: [setting_text(value) for value in values] for name, values in space.grid.items()},
        "sampled": {name: str(sampled) for name, sampled in space.sampled.items()},
        "seeds": seeds,
        "trials": [
            {
                "point": each.trial.point,
                "number": each.trial.number,
                "settings": _texts(each.trial.settings),
                "nll": each.nll,
                "std_error": each.std_error,
                "test_nll": each.test_nll,
                "seconds": each.seconds,
                "runs": [
                    {**vars(run), "active_units": None if run.active_units is None else list(run.active_units)}
                    for run in each.runs
                ],
            }
            for each in outcomes
        ],
        "command": command,
        "version": __version__,
    }


def table(space: Space, objective: str, outcomes: Sequence[TrialOutcome]) -> bytes:
    """Return the runs of a sweep as a CSV file, those of the best trial first."""
    names = (*space.grid, *space.sampled)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    columns = ("test_nll", "test_std_error", "active_units", "seconds", "run")
    writer.writerow((*names, "seed", f"{objective}_nll" if objective != "test" else "nll", *columns))
    for each in outcomes:
        values = [setting_text(each.trial.settings[name]) for name in names]
        for run in each.runs:
            units = None if run.active_units is None else "+".join(map(str, run.active_units))
            writer.writerow(
                (*values, run.seed, run.nll, run.test_nll, run.test_std_error, units, run.seconds, run.name)
            )
    return text.getvalue().encode()


def _run_outcome(work: SweepWork) -> RunOutcome:
    nll = work.nll()
    test = None if nll is None else work.test
    if test is None:
        return RunOutcome(work.name, work.seed, None, None, None, None, None)
    units = test.content["active_units"]
    return RunOutcome(
        work.name,
        work.seed,
        nll,
        test.content["nll"],
        test.content["std_error"],
        None if units is None else tuple(units),
        read_metrics(Run(work.folder).metrics)[-1].seconds,
    )


def _texts(settings: Mapping[str, Any]) -> dict[str, str]:
    return {name: setting_text(value) for name, value in settings.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
