"""Comparison of evaluated runs from their folders."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...files import read_json
from ..train.metrics import EpochMetrics, read_metrics
from ..train.runs import Run, check_is_run
from ..train.segments import Segment
from .evaluations import Evaluation, all_evaluations
from .per_observation import PerObservation


@dataclass(frozen=True)
class Difference:
    """A run's test NLL minus that of the first run, in nats; negative if the run is better."""

    nll: float
    std_error: float | None
    """Standard error of the mean of the paired differences over observations; None for a single observation."""


@dataclass(frozen=True)
class Summary:
    """One run of a comparison, with likelihoods in nats; None for quantities that its evaluation does not have."""

    run: str
    """Folder of the run."""
    dataset: str
    likelihood: str
    bound: str
    k: int
    """Samples per observation in training."""
    objectives: list[str]
    """Descriptions of the objectives, one per segment of training."""
    latent: list[int]
    """Units of each layer, the one nearest to the data first."""
    epochs: int | None
    """Complete epochs at the evaluation."""
    seconds: float | None
    """Training time until the evaluation."""
    nll: float
    std_error: float | None
    eval_k: int
    observations: int
    train_nll: float | None
    active_units: list[int] | None
    ess: float
    difference: Difference | None
    """Paired difference to the first run; None for the first run, and if the evaluations cannot be compared."""
    incomparable: str | None
    """Reason why ``difference`` is missing, and how to obtain it; None if it is not missing, and for the first run."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Candidate:
    """A run with the evaluations of its latest evaluated checkpoint."""

    run: Run
    config: dict[str, Any]
    evaluations: list[Evaluation]

    @property
    def likelihood(self) -> str:
        """Name of the likelihood; runs of the first versions do not store it and are Bernoulli."""
        return self.config.get("likelihood", "bernoulli")


def compare_runs(folders: Sequence[Path]) -> list[Summary]:
    """Summarize evaluated runs, with their differences to the first.

    If runs were evaluated more than once, evaluations are chosen that all runs share: on the same observations with
    the same number of samples. If there are none, the best evaluation of each run is shown, and a difference is given
    only if observations and number of samples agree.

    Raises FileNotFoundError for a folder that is not a run or was never evaluated, and ValueError for an invalid file
    in it; each names the folder.
    """
    candidates = [_open(folder) for folder in folders]
    chosen = _alike(candidates)
    return [_summary(one, found, candidates[0], chosen[0]) for one, found in zip(candidates, chosen, strict=True)]


def _open(folder: Path) -> _Candidate:
    run = check_is_run(folder)
    own = [evaluation for evaluation in all_evaluations(run) if evaluation.is_own]
    if not own:
        raise FileNotFoundError(f"{folder} was never evaluated: it does not have {run.evaluation.name}")
    latest = own[0].content.get("step")
    return _Candidate(run, read_json(run.config), [one for one in own if one.content.get("step") == latest])


def _alike(candidates: Sequence[_Candidate]) -> list[Evaluation]:
    """Choose one evaluation per run, with the same observations and number of samples in all runs if possible."""
    kinds = [{_kind(one): one for one in reversed(candidate.evaluations)} for candidate in candidates]
    for kind in map(_kind, candidates[0].evaluations):  # the best first
        if kind[0] is not None and all(kind in known for known in kinds):
            return [known[kind] for known in kinds]
    return [candidate.evaluations[0] for candidate in candidates]


def _kind(evaluation: Evaluation) -> tuple[str | None, Any]:
    return evaluation.images, evaluation.content.get("k")


def _summary(one: _Candidate, found: Evaluation, first: _Candidate, first_found: Evaluation) -> Summary:
    evaluation = found.content
    try:
        last = _last_epoch(one.run, evaluation["step"])
        reason = None if one is first else _incomparable(one, found, first, first_found)
        segments = [Segment(**segment) for segment in evaluation.get("segments", [])]
        return Summary(
            run=str(one.run.folder),
            dataset=evaluation["dataset"],
            likelihood=one.likelihood,
            bound=one.config["bound"],
            k=one.config["k"],
            objectives=[segment.describe() for segment in segments],
            latent=list(one.config["latent"]),
            epochs=None if last is None else last.epoch,
            seconds=None if last is None else last.seconds,
            nll=evaluation["nll"],
            std_error=evaluation["std_error"],
            eval_k=evaluation["k"],
            observations=evaluation["observations"],
            train_nll=evaluation.get("train_nll"),
            active_units=evaluation.get("active_units"),
            ess=evaluation["ess"],
            difference=None if one is first or reason is not None else _difference(found, first_found),
            incomparable=reason,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{one.run.folder} is not the folder of a complete run: {error} is missing or invalid"
        ) from error


def _last_epoch(run: Run, step: int) -> EpochMetrics | None:
    """Return the last epoch before the evaluation; training may have continued since."""
    rows = [row for row in read_metrics(run.metrics) if row.step <= step]
    return rows[-1] if rows else None


def _incomparable(one: _Candidate, found: Evaluation, first: _Candidate, first_found: Evaluation) -> str | None:
    """Return why two evaluations cannot be compared; None if they can."""
    if one.likelihood != first.likelihood:
        return f"likelihood {one.likelihood}, not {first.likelihood}: their log-likelihoods are not comparable"
    k, other_k = found.content["k"], first_found.content["k"]
    count, other_count = found.content["observations"], first_found.content["observations"]
    if None in (found.images, first_found.images):
        return "evaluated by an earlier version, which did not store results per observation: evaluate both again"
    if found.images != first_found.images and count == other_count:
        return f"different test observations ({found.content['dataset']}, not {first_found.content['dataset']})"
    if found.images == first_found.images and k == other_k:
        return None
    differing = [] if k == other_k else [f"k = {k}, not {other_k}"]
    differing += [] if count == other_count else [f"{count} observations, not {other_count}"]
    return (
        f"evaluated with {' and '.join(differing)}; to compare: {_command(one, k, count, first, other_k, other_count)}"
    )


def _command(one: _Candidate, k: int, count: int, first: _Candidate, other_k: int, other_count: int) -> str:
    """Return the command that evaluates the run with the smaller evaluation like the other one."""
    worse = one if (count, k) < (other_count, other_k) else first
    count, k = max((count, k), (other_count, other_k))
    some = "" if count == _test_observations(worse) else f" --observations {count}"
    return f"iwae-fast evaluate {shlex.quote(str(worse.run.folder))} --k {k}{some}"


def _test_observations(candidate: _Candidate) -> int | None:
    return candidate.evaluations[0].content.get("test_observations")


def _difference(found: Evaluation, first_found: Evaluation) -> Difference:
    mine, others = (PerObservation.load(one.per_observation).nll for one in (found, first_found))
    differences = mine - others
    count = len(differences)
    error = None if count < 2 else float(differences.std(ddof=1)) / math.sqrt(count)
    return Difference(float(differences.mean()), error)
