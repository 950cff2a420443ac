"""Storage of the evaluations of a run; a new evaluation does not replace earlier ones with other settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files import read_json, replace_file, write_json
from ..train.runs import Run
from .per_observation import PerObservation


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: its numbers, and the path of its results per observation."""

    content: dict[str, Any]
    per_observation: Path
    """File of the results per observation, which evaluations of the first versions do not have."""

    @property
    def is_own(self) -> bool:
        """True if the observations are the run's own test set, or a subset of it."""
        return self.content.get("own", True)

    @property
    def images(self) -> str | None:
        """The fingerprint of the observations; None if an earlier version did not store it."""
        if not self.per_observation.is_file():
            return None
        return self.content.get("images") or PerObservation.load(self.per_observation).images

    def rank(self) -> tuple[Any, ...]:
        """Return a sort key that is largest for the most trustworthy evaluation.

        The key compares the step of the checkpoint, the number of test observations and the number of samples, in this
        order.
        """
        names = ("step", "observations", "k", "train_observations", "active_units_only_observations")
        return (*(self.content.get(name) or 0 for name in names), self.content.get("evaluated_at") or "")


def keep_evaluation(run: Run, content: dict[str, Any], results: PerObservation, name: str | None = None) -> Path:
    """Store an evaluation beside the others of a run, and the best one on its own data as ``evaluation.json``.

    Args:
        run: the run; the caller must hold :func:`.runs.sole_evaluator`.
        content: the numbers. They replace those for the same checkpoint, samples and observations.
        results: the results per observation.
        name: name of the observations; None if they are the run's own.

    Returns the path of the numbers.
    """
    _adopt(run)
    path = run.evaluations / f"{_stem(content, name)}.json"
    run.evaluations.mkdir(exist_ok=True)
    results.save(path.with_suffix(".npz"))  # before the numbers: readers of the numbers expect this file
    write_json(path, content)
    best = best_evaluation(all_evaluations(run))
    if best is not None:
        replace_file(run.per_observation, best.per_observation.read_bytes())
        write_json(run.evaluation, best.content)
    return path


def all_evaluations(run: Run) -> list[Evaluation]:
    """Read all evaluations of a run, the best first; raises ValueError naming an invalid file."""
    files = sorted(run.evaluations.glob("*.json"))
    if not files and run.evaluation.is_file():  # earlier versions stored one evaluation here
        return [Evaluation(read_json(run.evaluation), run.per_observation)]
    found = [Evaluation(read_json(path), path.with_suffix(".npz")) for path in files]
    return sorted(found, key=Evaluation.rank, reverse=True)


def best_evaluation(found: Sequence[Evaluation]) -> Evaluation | None:
    """Return the most trustworthy evaluation on the run's own data; None if there is none."""
    return max((one for one in found if one.is_own), key=Evaluation.rank, default=None)


def find_evaluation(run: Run, k: int, observations: int | None, of: str | None = None) -> Evaluation | None:
    """Return the best evaluation of a run with these settings; None if there is none.

    Args:
        run: the run.
        k: samples per observation.
        observations: the most observations, of which there may be fewer; None for all.
        of: name of observations other than the run's own test set.
    """
    for found in all_evaluations(run):
        content = found.content
        all_of_them = content.get("test_observations", 0)
        wanted = min(observations or all_of_them, all_of_them)
        is_meant = found.is_own if of is None else not found.is_own and content.get("dataset") == of
        if is_meant and (content.get("k"), content.get("observations")) == (k, wanted):
            return found
    return None


def _adopt(run: Run) -> None:
    """Move the evaluation of an earlier version into the folder of evaluations, before it is overwritten."""
    if run.evaluations.is_dir() or not run.evaluation.is_file():
        return
    content = read_json(run.evaluation)
    run.evaluations.mkdir()
    path = run.evaluations / f"{_stem(content, None)}.json"
    if run.per_observation.is_file():
        replace_file(path.with_suffix(".npz"), run.per_observation.read_bytes())
    write_json(path, content)


def _stem(content: dict[str, Any], name: str | None) -> str:
    """Return a file name from the checkpoint, samples, observations and further parts of an evaluation."""
    parts = ("step", "step"), ("k", "k"), ("n", "observations")
    further = ("t", "train_observations"), ("a", "active_units_only_observations")
    words = [] if name is None else [name]
    words += [f"{short}{content.get(long)}" for short, long in parts]
    words += [f"{short}{content.get(long) or 0}" for short, long in further if name is None]
    return "-".join([*words, str(content.get("images") or "earlier")[:8]])
