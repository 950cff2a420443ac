"""The interface of an experiment tracker."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

PROJECT = "iwae-fast"
"""Name of the project or experiment of runs, unless the environment names another one."""

Settings = Mapping[str, Any]


class Tracker(ABC):
    """One run in a tracker. Its methods may raise any exception, which ends logging and not training."""

    name: ClassVar[str]
    """Name of the tracker on the command line, and of the package's extra that installs its library."""
    library: ClassVar[str]
    """Top-level module of the library."""

    @abstractmethod
    def begin(self, folder: Path, settings: Settings, identity: str | None, step: int) -> str:
        """Begin a run in the tracker, or continue one.

        Args:
            folder: folder of the run, whose name is that of the run in the tracker.
            settings: the settings to log; values are numbers, strings, bools, None or lists.
            identity: what this method has returned for the run, if it was logged before and now resumes.
            step: steps taken before, which were logged.

        Returns the identity by which a resumed run finds its run in the tracker.
        """

    @abstractmethod
    def where(self) -> str:
        """Return the place of the run in words, such as a folder or an address."""

    @abstractmethod
    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers by name after ``step`` steps of training."""

    @abstractmethod
    def picture(self, step: int, path: Path) -> None:
        """Log a picture, a PNG file, under the name of the file."""

    @abstractmethod
    def end(self, outcome: str) -> None:
        """End the run; ``outcome`` is "finished", "interrupted" or "failed"."""

    @classmethod
    def check_installed(cls) -> None:
        """Raise ValueError naming the extra if the library is not installed."""
        try:
            importlib.import_module(cls.library)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"--log {cls.name} needs {error.name}, which is not installed: pip install 'iwae_fast[cli,{cls.name}]'"
            ) from error


def text(value: Any) -> str | bool | int | float:
    """Return a setting as a value that every tracker takes: lists and None become text."""
    return value if isinstance(value, bool | int | float | str) else str(value)
