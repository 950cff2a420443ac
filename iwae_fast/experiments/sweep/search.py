"""The trials of a sweep, sampled and stored by Optuna.

Every point of the grid is a study of its own, so that settings are sampled for it alone. All studies are in one
journal, which several processes and machines can share. The sampler of a trial is seeded by the trial's number, so a
sweep that was interrupted continues with the trials that it would have had.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from .space import Choice, Range, Space

JOURNAL = "trials.journal"
SAMPLERS = ("tpe", "random")


@dataclass(frozen=True)
class Trial:
    """The settings of one trial, which runs once per seed."""

    point: str
    """Name of the point of the grid."""
    number: int
    """Number among the trials of the point, from 0."""
    settings: Mapping[str, Any]
    """The settings that differ between trials."""


class Search:
    """The trials of a sweep.

    Args:
        folder: folder of the sweep, which exists.
        space: the settings.
        trials: number of trials for each point of the grid.
        sampler: one of SAMPLERS.

    Raises ValueError if Optuna is not installed.
    """

    def __init__(self, folder: Path, space: Space, trials: int, sampler: str) -> None:
        self.optuna = optuna_module()
        self.space = space
        self.points = space.points()
        self.count = trials
        self._sampler = sampler
        self._lock = filelock.FileLock(folder / ".search.lock")
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            backend = self.optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL))
            storage = self.optuna.storages.JournalStorage(backend)
            self._studies = {
                name: self.optuna.create_study(study_name=name or "all", storage=storage, load_if_exists=True)
                for name in self.points
            }

    def trials(self) -> Iterator[Trial]:
        """Yield the trials, the first of every point before the second; the settings are sampled when it is yielded."""
        for number in range(self.count):
            for point in self.points:
                yield self.trial(point, number)

    def known(self) -> list[Trial]:
        """Return the trials that have been sampled."""
        numbers = {name: len(study.get_trials(deepcopy=False)) for name, study in self._studies.items()}
        places = ((point, number) for number in range(self.count) for point in self.points)
        return [self.trial(point, number) for point, number in places if number < numbers[point]]

    def trial(self, point: str, number: int) -> Trial:
        """Return a trial, after sampling it if it is the next one of its point."""
        study = self._studies[point]
        with self._lock:
            found = study.get_trials(deepcopy=False)
            if number < len(found) and found[number].params.keys() >= self.space.sampled.keys():
                params = found[number].params
            else:
                study.sampler = self._seeded_sampler(number)
                # A process may have been killed after it began the trial and before it had sampled all settings.
                begun = self.optuna.trial.Trial(study, found[number]._trial_id) if number < len(found) else study.ask()
                params = {name: _suggest(begun, name, sampled) for name, sampled in self.space.sampled.items()}
        sampled = {name: each.value(params[name]) for name, each in self.space.sampled.items()}
        return Trial(point, number, {**self.points[point], **sampled})

    def tell(self, trial: Trial, nll: float) -> None:
        """Store the result of a trial, unless another process has stored it."""
        self._studies[trial.point].tell(trial.number, nll, skip_if_finished=True)

    def _seeded_sampler(self, seed: int) -> Any:
        samplers: dict[str, Callable[[], Any]] = {
            # The liar keeps the trials of concurrent runs apart.
            "tpe": lambda: self.optuna.samplers.TPESampler(seed=seed, constant_liar=True),
            "random": lambda: self.optuna.samplers.RandomSampler(seed=seed),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            return samplers[self._sampler]()


def _suggest(trial: Any, name: str, sampled: Range | Choice) -> Any:
    if isinstance(sampled, Choice):
        return trial.suggest_categorical(name, list(sampled.values))
    suggest = trial.suggest_int if sampled.whole else trial.suggest_float
    return suggest(name, sampled.low, sampled.high, log=sampled.log)


def optuna_module() -> Any:
    """Return the module ``optuna``; raises ValueError if it is not installed."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ValueError(
            f"iwae-fast sweep needs {error.name}, which is not installed: pip install 'iwae_fast[cli,sweep]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
