"""The current command line, recorded in reports."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_arguments: ContextVar[Sequence[str]] = ContextVar("arguments", default=())


@contextmanager
def invoked_with(arguments: Sequence[str] | None) -> Iterator[None]:
    """Make :func:`command_line` return these arguments inside the context (those of the process if None)."""
    token = _arguments.set(tuple(sys.argv[1:] if arguments is None else arguments))
    try:
        yield
    finally:
        _arguments.reset(token)


def command_line() -> str:
    """Return the current command line, quoted for a shell."""
    return shlex.join(("iwae-fast", *_arguments.get()))
