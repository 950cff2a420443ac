"""The command line under way, for what is to say how it was made."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_arguments: ContextVar[Sequence[str]] = ContextVar("arguments", default=())


@contextmanager
def invoked_with(arguments: Sequence[str] | None) -> Iterator[None]:
    """Inside, :func:`command_line` tells of these arguments, those of the process if None."""
    token = _arguments.set(tuple(sys.argv[1:] if arguments is None else arguments))
    try:
        yield
    finally:
        _arguments.reset(token)


def command_line() -> str:
    """What to type into a shell to do the same again."""
    return shlex.join(("iwae-fast", *_arguments.get()))
