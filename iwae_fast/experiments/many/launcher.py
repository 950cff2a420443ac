"""Templates of command lines by which the commands of runs are started, such as those of a queue."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PLACEHOLDER = re.compile(r"\{(\w+)\}")
PLACEHOLDERS = ("command", "name", "log", "slot")


@dataclass(frozen=True)
class Launcher:
    """A command line with placeholders.

    ``{command}`` is the command of a run as one word, quoted for a shell; without it the words of the command are
    appended. ``{name}`` is the name of the run, ``{log}`` the path of its log, and ``{slot}`` the number of the job,
    from 0, among those that run at once.
    """

    words: tuple[str, ...]

    @classmethod
    def parse(cls, template: str) -> Launcher:
        """Read a template, which is split into words as a shell does; raises ValueError if it cannot be used."""
        try:
            words = tuple(shlex.split(template))
        except ValueError as error:
            raise ValueError(f"--launcher must be a command line, got {template!r}: {error}") from error
        if not words:
            raise ValueError("--launcher must be a command line, got an empty one")
        for name in PLACEHOLDER.findall(template):
            if name not in PLACEHOLDERS:
                known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
                raise ValueError(f"--launcher has the unknown placeholder {{{name}}}: choose from {known}")
        if shutil.which(words[0]) is None:
            raise ValueError(f"--launcher must begin with a program of this machine, got {words[0]!r}")
        return cls(words)

    def __call__(self, command: Sequence[str], values: Mapping[str, str]) -> list[str]:
        """Return the words that start a command; ``values`` are those of the placeholders other than ``{command}``."""
        known = {**values, "command": shlex.join(command)}
        words = [PLACEHOLDER.sub(lambda match: known[match.group(1)], word) for word in self.words]
        return words if any("{command}" in word for word in self.words) else [*words, *command]
