"""The evaluations of a run, side by side: none replaces another one."""

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
    """One evaluation: its numbers, and where the results of each observation are."""

    content: dict[str, Any]
    per_observation: Path
    """Evaluations of the first versions have no such file."""

    @property
    def is_own(self) -> bool:
        """Whether the observations are the run's own test set, or some of it."""
        return self.content.get("own", True)

    @property
    def images(self) -> str | None:
        """The fingerprint of the observations; None where an earlier version did not keep it."""
        if not self.per_observation.is_file():
            return None
        return self.content.get("images") or PerObservation.load(self.per_observation).images

    def rank(self) -> tuple[Any, ...]:
        """A key by which the most trustworthy evaluation is the largest.

        It is of the latest checkpoint, of the most test observations, and of the most samples, in this order.
        """
        names = ("step", "observations", "k", "train_observations", "active_units_only_observations")
        return (*(self.content.get(name) or 0 for name in names), self.content.get("evaluated_at") or "")


def keep_evaluation(run: Run, content: dict[str, Any], results: PerObservation, name: str | None = None) -> Path:
    """Keep an evaluation beside the others of a run, and the best one of its own data as ``evaluation.json``.

    Args:
        run: whose folder the caller alone evaluates in, see :func:`.runs.sole_evaluator`.
        content: its numbers. One of the same checkpoint, samples and observations is replaced.
        results: those of each observation.
        name: what the observations are, where they are not the run's own.

    Returns the file of its numbers.
    """
    _adopt(run)
    path = run.evaluations / f"{_stem(content, name)}.json"
    run.evaluations.mkdir(exist_ok=True)
    results.save(path.with_suffix(".npz"))  # first: whoever finds the numbers finds these too
    write_json(path, content)
    best = best_evaluation(all_evaluations(run))
    if best is not None:
        replace_file(run.per_observation, best.per_observation.read_bytes())
        write_json(run.evaluation, best.content)
    return path


def all_evaluations(run: Run) -> list[Evaluation]:
    """Read all evaluations of a run, the best first; ValueError naming a file that is not what it should be."""
    files = sorted(run.evaluations.glob("*.json"))
    if not files and run.evaluation.is_file():  # an earlier version kept one
        return [Evaluation(read_json(run.evaluation), run.per_observation)]
    found = [Evaluation(read_json(path), path.with_suffix(".npz")) for path in files]
    return sorted(found, key=Evaluation.rank, reverse=True)


def best_evaluation(found: Sequence[Evaluation]) -> Evaluation | None:
    """Find the most trustworthy evaluation of the run's own data; None where there is none."""
    return max((one for one in found if one.is_own), key=Evaluation.rank, default=None)


def _adopt(run: Run) -> None:
    """Take in the evaluation that an earlier version left, before another one takes its place."""
    if run.evaluations.is_dir() or not run.evaluation.is_file():
        return
    content = read_json(run.evaluation)
    run.evaluations.mkdir()
    path = run.evaluations / f"{_stem(content, None)}.json"
    if run.per_observation.is_file():
        replace_file(path.with_suffix(".npz"), run.per_observation.read_bytes())
    write_json(path, content)


def _stem(content: dict[str, Any], name: str | None) -> str:
    """Name what makes another evaluation: checkpoint, samples, observations, and what else was evaluated."""
    parts = ("step", "step"), ("k", "k"), ("n", "observations")
    further = ("t", "train_observations"), ("a", "active_units_only_observations")
    words = [] if name is None else [name]
    words += [f"{short}{content.get(long)}" for short, long in parts]
    words += [f"{short}{content.get(long) or 0}" for short, long in further if name is None]
    return "-".join([*words, str(content.get("images") or "earlier")[:8]])
