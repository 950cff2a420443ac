"""Runs side by side, from what their folders hold."""

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
    """A run's test NLL less that of the first, in nats; negative where the run is better."""

    nll: float
    std_error: float | None
    """Standard error of the mean of the paired differences over observations; None for a single observation."""


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
    objectives: list[str]
    """What was maximized, one segment of the training after the other."""
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
    """None for the first run, and where the two evaluations are not alike."""
    incomparable: str | None
    """Why there is no difference, and what would make one; None where there is one, and for the first run."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Candidate:
    """A run with the evaluations of its latest checkpoint that was evaluated."""

    run: Run
    config: dict[str, Any]
    evaluations: list[Evaluation]

    @property
    def likelihood(self) -> str:
        """Runs of the first versions do not name it."""
        return self.config.get("likelihood", "bernoulli")


def compare_runs(folders: Sequence[Path]) -> list[Summary]:
    """Summarize evaluated runs, with their differences to the first.

    Of a run that was evaluated more than once, the evaluation is taken that is like one of every other run: of the same
    observations by as many samples. Where there is none, each run's best one is shown, and a difference is given only
    where it is one of like to like.

    Raises FileNotFoundError for a folder that is no run or was never evaluated, and ValueError for a file in one that
    is not what it should be; each names the folder.
    """
    candidates = [_open(folder) for folder in folders]
    chosen = _alike(candidates)
    return [_summary(one, found, candidates[0], chosen[0]) for one, found in zip(candidates, chosen, strict=True)]


def _open(folder: Path) -> _Candidate:
    run = check_is_run(folder)
    own = [evaluation for evaluation in all_evaluations(run) if evaluation.is_own]
    if not own:
        raise FileNotFoundError(f"{folder} was never evaluated: it has no {run.evaluation.name}")
    latest = own[0].content.get("step")
    return _Candidate(run, read_json(run.config), [one for one in own if one.content.get("step") == latest])


def _alike(candidates: Sequence[_Candidate]) -> list[Evaluation]:
    """Choose an evaluation of each run, of the same observations and samples in all where there is such a choice."""
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
        raise ValueError(f"{one.run.folder} is not the folder of a whole run: {error} is missing or wrong") from error


def _last_epoch(run: Run, step: int) -> EpochMetrics | None:
    """Find the last epoch before the evaluation: the run may have gone on since."""
    rows = [row for row in read_metrics(run.metrics) if row.step <= step]
    return rows[-1] if rows else None


def _incomparable(one: _Candidate, found: Evaluation, first: _Candidate, first_found: Evaluation) -> str | None:
    """Say why the difference of two evaluations would mean nothing; None where it means something."""
    if one.likelihood != first.likelihood:
        return f"likelihood {one.likelihood}, not {first.likelihood}: their nats are not of the same thing"
    k, other_k = found.content["k"], first_found.content["k"]
    count, other_count = found.content["observations"], first_found.content["observations"]
    if None in (found.images, first_found.images):
        return "evaluated by an earlier version, which did not keep each observation: evaluate both again"
    if found.images != first_found.images and count == other_count:
        return f"other test observations ({found.content['dataset']}, not {first_found.content['dataset']})"
    if found.images == first_found.images and k == other_k:
        return None
    differing = [] if k == other_k else [f"k = {k}, not {other_k}"]
    differing += [] if count == other_count else [f"{count} observations, not {other_count}"]
    return (
        f"evaluated with {' and '.join(differing)}; to compare: {_command(one, k, count, first, other_k, other_count)}"
    )


def _command(one: _Candidate, k: int, count: int, first: _Candidate, other_k: int, other_count: int) -> str:
    """Write the command that evaluates the run of the poorer evaluation as the other one was."""
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
