"""The runs of a table as works of a :class:`~iwae_fast.experiments.many.runner.Runner`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..config import CLOSING, TrainConfig
from ..evaluate.evaluations import Evaluation, find_evaluation
from ..many.training import FREE, Settings, check_settings, free, is_trained, next_training
from ..train.runs import Run
from .scales import Scale
from .tables import RunOfTable

UNEVALUATED = ("--eval-k", "0")


@dataclass(frozen=True)
class TableWork:
    """A run of a table to train and to evaluate, in a folder of its name under ``parent``."""

    run: RunOfTable
    parent: Path
    scale: Scale
    k: int
    """Samples per observation in the evaluation."""
    options: Settings = field(default_factory=dict)
    """Further settings of all runs, such as the device."""

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def folder(self) -> Path:
        return self.parent / self.name

    def is_done(self) -> bool:
        """Return whether the run is trained and evaluated; raises ValueError if its folder has another."""
        files = Run(self.folder)
        if not files.checkpoint.exists():
            return False
        self._check_settings(files)
        return is_trained(files) and evaluation_of(files, self.scale, self.k) is not None

    def next_command(self) -> list[str] | None:
        """Return the arguments of the next command of ``iwae-fast``; None once the run is done."""
        if self.is_done():
            return None
        after = self.run.after
        start = None if after is None else self.parent / after.name
        settings = {**self.run.settings, **self.options}
        training = next_training(Run(self.folder), settings, UNEVALUATED, start)
        return self._evaluation() if training is None else training

    def _check_settings(self, files: Run) -> None:
        if self.run.after is None:
            wanted = TrainConfig.preset(**self.run.settings, **self.options)
            check_settings(files, wanted, (*FREE, *CLOSING))

    def _evaluation(self) -> list[str]:
        observations = [] if self.scale.observations is None else ["--observations", str(self.scale.observations)]
        further = str(self.scale.further)
        wanted = ["--k", str(self.k), *observations]
        wanted += ["--train-observations", further, "--active-only-observations", further]
        return ["evaluate", str(self.folder), *wanted, *free(self.options)]


def evaluation_of(files: Run, scale: Scale, k: int) -> Evaluation | None:
    """Return the evaluation of a run for a table at this scale; None if there is none."""
    return find_evaluation(files, k, scale.observations)


def with_ancestors(runs: Sequence[RunOfTable]) -> list[RunOfTable]:
    """Return the runs with those from which they continue, each once and after the one from which it continues."""
    found: dict[str, RunOfTable] = {}
    for run in runs:
        lineage = [run]
        while lineage[-1].after is not None:
            lineage.append(lineage[-1].after)
        found |= {each.name: each for each in reversed(lineage) if each.name not in found}
    return list(found.values())


def when_ready(works: Sequence[TableWork], done: Collection[str]) -> Iterator[TableWork | None]:
    """Yield each work once the one from which it continues is among the names ``done``; yield None while none is."""
    pending = list(works)
    while pending:
        ready = next((work for work in pending if work.run.after is None or work.run.after.name in done), None)
        if ready is not None:
            pending.remove(ready)
        yield ready
