"""Results of the entries of a table, beside the published figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..._version import __version__
from ..evaluate.comparison import Difference, compare_runs
from ..evaluate.evaluations import Evaluation, all_evaluations, best_evaluation
from ..train.metrics import read_metrics
from ..train.runs import Run
from .scales import Scale
from .tables import Entry, Table


@dataclass(frozen=True)
class Outcome:
    """Results of an entry from its finished runs, with likelihoods in nats."""

    row: str
    column: str
    nll: float | None
    """Test NLL, the mean over trials."""
    std_error: float | None
    """Standard error over test images, or over trials if there are several."""
    units: str | None
    """Active units per layer, the rounded mean over trials."""
    train_nll: float | None
    ess: float | None
    published: float | None
    published_units: str | None
    difference: float | None
    """Our NLL minus the published one."""
    beside: str | None
    """Name of the run with which the first trial is compared; None without a comparison."""
    gain: Difference | None
    """Paired difference over images: the NLL of the first trial minus that of ``beside``."""
    trials: int
    """Number of finished trials."""
    seconds: float | None
    """Training time of all trials."""
    runs: tuple[str, ...]


def best_of(run: Run) -> Evaluation | None:
    """Return the most trustworthy evaluation of a run; None if there is none."""
    return best_evaluation(all_evaluations(run))


def outcome(entry: Entry, folder: Path, choose: Callable[[Run], Evaluation | None] = best_of) -> Outcome:
    """Return the results of an entry's evaluated runs under ``folder``; ``choose`` selects the evaluation of a run."""
    runs = [Run(folder / run.name) for run in entry.runs]
    found = [(run, chosen.content) for run in runs if (chosen := choose(run)) is not None]
    nlls = [evaluation["nll"] for _, evaluation in found]
    nll = statistics.fmean(nlls) if nlls else None
    error = None
    if len(nlls) > 1:
        error = statistics.stdev(nlls) / math.sqrt(len(nlls))
    elif nlls:
        error = found[0][1]["std_error"]
    figure = entry.published
    return Outcome(
        row=entry.row,
        column=entry.column,
        nll=nll,
        std_error=error,
        units=_units([evaluation["active_units"] for _, evaluation in found]),
        train_nll=_mean([evaluation["train_nll"] for _, evaluation in found]),
        ess=_mean([evaluation["ess"] for _, evaluation in found]),
        published=None if figure is None else figure.nll,
        published_units=None if figure is None else figure.units,
        difference=None if figure is None or nll is None else nll - figure.nll,
        beside=None if entry.beside is None else entry.beside.name,
        gain=_gain(entry, folder),
        trials=len(nlls),
        seconds=sum(read_metrics(run.metrics)[-1].seconds for run, _ in found) if found else None,
        runs=tuple(run.name for run in entry.runs),
    )


def _gain(entry: Entry, folder: Path) -> Difference | None:
    if entry.beside is None or entry.beside.name == entry.runs[0].name:
        return None
    folders = [folder / entry.beside.name, folder / entry.runs[0].name]
    if not all(Run(each).evaluation.exists() for each in folders):
        return None
    return compare_runs(folders)[1].difference


def content(
    name: str, table: Table, scale_name: str, scale: Scale, k: int, outcomes: Sequence[Outcome]
) -> dict[str, Any]:
    """Return a table and its results as JSON content."""
    return {
        "table": name,
        "title": table.title,
        "source": table.source,
        "scale": scale_name,
        "settings": {**asdict(scale), "k": k},
        "notes": list(table.notes),
        "entries": [asdict(each) for each in outcomes],
        "version": __version__,
    }


def _units(counts: Sequence[Sequence[int] | None]) -> str | None:
    known = [layers for layers in counts if layers is not None]
    if not known:
        return None
    return "+".join(str(round(statistics.fmean(layer))) for layer in zip(*known, strict=True))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
