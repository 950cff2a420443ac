"""The runs of a sweep as works of a :class:`~iwae_fast.experiments.many.runner.Runner`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..config import TrainConfig
from ..evaluate.evaluations import Evaluation, find_evaluation
from ..many.training import check_settings, config_of, free, is_trained, next_training
from ..train.fixed_pixels import VALIDATION
from ..train.runs import Run
from .search import Trial


@dataclass(frozen=True)
class SweepWork:
    """A run of a trial, in a folder of its own under ``parent``."""

    trial: Trial
    seed: int
    parent: Path
    settings: Mapping[str, Any]
    """All settings of the run, the seed included."""
    validated: bool
    """True to evaluate the validation set too."""
    numbered: bool
    """True if a point of the grid has several trials."""

    @property
    def name(self) -> str:
        number = [f"trial{self.trial.number:03d}"] if self.numbered else []
        return "-".join([*filter(None, [self.trial.point]), *number, f"seed{self.seed}"])

    @property
    def folder(self) -> Path:
        return self.parent / self.name

    @cached_property
    def config(self) -> TrainConfig:
        return config_of(self.settings)

    @property
    def test(self) -> Evaluation | None:
        """The evaluation of the test set, once there is one."""
        return find_evaluation(Run(self.folder), self.config.eval_k, self.config.eval_observations)

    @property
    def validation(self) -> Evaluation | None:
        """The evaluation of the validation set, once there is one."""
        return find_evaluation(Run(self.folder), self.config.eval_k, self.config.eval_observations, VALIDATION)

    def nll(self) -> float | None:
        """Return the NLL by which runs are compared: of the validation set if there is one; None if it is missing."""
        found = self.validation if self.validated else self.test
        return None if found is None or not self.is_trained() else found.content["nll"]

    def is_trained(self) -> bool:
        """Return whether the run is trained; raises ValueError if its folder has another."""
        files = Run(self.folder)
        if not files.checkpoint.exists():
            return False
        check_settings(files, self.config)
        return is_trained(files)

    def next_command(self) -> list[str] | None:
        """Return the arguments of the next command of ``iwae-fast``; None once the run is done."""
        files = Run(self.folder)
        if not self.is_trained():
            return next_training(files, self.settings)
        if self.test is None:  # interrupted in the evaluation after training, which the command repeats
            return ["train", "--resume", str(self.folder), *free(self.settings)]
        if self.validated and self.validation is None:
            wanted = ["--k", str(self.config.eval_k), "--observations", str(self.config.eval_observations)]
            where = {name: value for name, value in self.settings.items() if name in ("device", "backend")}
            return ["evaluate", str(self.folder), "--validation", *wanted, *free(where)]
        return None
