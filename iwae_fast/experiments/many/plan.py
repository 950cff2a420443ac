"""Files by which a runner hands several commands to one process, and learns how each of them ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...files import read_json, write_json


@dataclass(frozen=True)
class Command:
    """A command of ``iwae-fast`` for the process that runs a plan."""

    name: str
    arguments: list[str]
    log: str
    """Path of the file to which its output is appended."""


@dataclass(frozen=True)
class Plan:
    """The commands of one process, in a JSON file, and their exit codes in another one beside it."""

    path: Path

    @property
    def codes_path(self) -> Path:
        return self.path.with_suffix(".codes.json")

    def write(self, commands: Sequence[Command]) -> None:
        """Write the commands, and discard the exit codes of earlier ones."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.codes_path.unlink(missing_ok=True)
        write_json(self.path, {"commands": [asdict(command) for command in commands]})

    def commands(self) -> list[Command]:
        """Read the commands; raises ValueError if the file does not hold any."""
        content: Any = read_json(self.path)
        try:
            return [Command(**command) for command in content["commands"]]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self.path} does not hold commands to run side by side: {error}") from error

    def write_codes(self, codes: Mapping[str, int]) -> None:
        """Write exit codes by the names of the commands."""
        write_json(self.codes_path, dict(codes))

    def codes(self) -> dict[str, int]:
        """Return the exit codes that are known; none if the process did not end by itself."""
        return read_json(self.codes_path) if self.codes_path.exists() else {}

    def remove(self) -> None:
        """Remove both files."""
        for path in (self.path, self.codes_path):
            path.unlink(missing_ok=True)
