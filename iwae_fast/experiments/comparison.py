"""Runs side by side, from what their folders hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import read_json
from .metrics import EpochMetrics, read_metrics
from .per_observation import PerObservation
from .runs import Run


@dataclass(frozen=True)
class Difference:
    """Of the test NLL of a run to that of the first, in nats; negative where the run is better."""

    nll: float
    std_error: float | None
    """Standard error of the mean of the paired differences over images; None where the images are not the same."""


@dataclass(frozen=True)
class Summary:
    """One run of a comparison; None for what its evaluation did not find. Likelihoods in nats."""

    run: str
    """The folder."""
    dataset: str
    likelihood: str
    bound: str
    k: int
    """Samples in training."""
    latent: list[int]
    """Units of each layer, the one nearest to the data first."""
    epochs: int | None
    """Epochs when it was evaluated."""
    seconds: float | None
    """Training time until then."""
    nll: float
    std_error: float | None
    eval_k: int
    observations: int
    train_nll: float | None
    active_units: list[int] | None
    ess: float
    difference: Difference | None
    """None for the first run, and for one of another data set or likelihood: their nats are not of the same thing."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare_runs(folders: Sequence[Path]) -> list[Summary]:
    """Summaries of evaluated runs with their differences to the first.

    Raises FileNotFoundError for a folder that is no run or was never evaluated, and ValueError for a file in one that
    is not what it should be; each names the folder.
    """
    runs = [_open(folder) for folder in folders]
    return [_summary(run, evaluation, *runs[0]) for run, evaluation in runs]


def _open(folder: Path) -> tuple[Run, dict[str, Any]]:
    run = Run(folder)
    if not run.config.is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a run: it has no {run.config.name}")
    if not run.evaluation.is_file():
        raise FileNotFoundError(f"{folder} was never evaluated: it has no {run.evaluation.name}")
    return run, read_json(run.evaluation)


def _summary(run: Run, evaluation: dict[str, Any], first: Run, first_evaluation: dict[str, Any]) -> Summary:
    config = read_json(run.config)
    try:
        last = _last_epoch(run, evaluation["step"])
        return Summary(
            run=str(run.folder),
            dataset=evaluation["dataset"],
            likelihood=_likelihood(config),
            bound=config["bound"],
            k=config["k"],
            latent=list(config["latent"]),
            epochs=None if last is None else last.epoch,
            seconds=None if last is None else last.seconds,
            nll=evaluation["nll"],
            std_error=evaluation["std_error"],
            eval_k=evaluation["k"],
            observations=evaluation["observations"],
            train_nll=evaluation.get("train_nll"),
            active_units=evaluation.get("active_units"),
            ess=evaluation["ess"],
            difference=None if run is first else _difference(run, evaluation, first, first_evaluation),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{run.folder} is not the folder of a whole run: {error} is missing or wrong") from error


def _likelihood(config: dict[str, Any]) -> str:
    """Runs of the first versions do not name it."""
    return config.get("likelihood", "bernoulli")


def _last_epoch(run: Run, step: int) -> EpochMetrics | None:
    """The last epoch before the evaluation: the run may have gone on since."""
    rows = [row for row in read_metrics(run.metrics) if row.step <= step]
    return rows[-1] if rows else None


def _difference(
    run: Run, evaluation: dict[str, Any], first: Run, first_evaluation: dict[str, Any]
) -> Difference | None:
    likelihoods = {_likelihood(read_json(one.config)) for one in (run, first)}
    if evaluation["dataset"] != first_evaluation["dataset"] or len(likelihoods) > 1:
        return None
    plain = Difference(evaluation["nll"] - first_evaluation["nll"], None)
    if not (run.per_observation.is_file() and first.per_observation.is_file()):
        return plain
    mine, others = PerObservation.load(run.per_observation), PerObservation.load(first.per_observation)
    if mine.images != others.images or len(mine.nll) < 2:
        return plain
    differences = mine.nll - others.nll
    return Difference(float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(len(differences)))
