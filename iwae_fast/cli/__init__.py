"""The command line, ``iwae-fast`` or ``python -m iwae_fast``. Importing this imports nothing that the library does not
need, and without the ``cli`` extra ``info`` is served all the same."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

EXTRA = ("filelock", "requests", "jinja2", "matplotlib", "pooch", "rich", "safetensors", "sklearn", "typer")
"""Top-level modules of the optional dependencies ``cli``."""

DEBUG = "IWAE_FAST_DEBUG"
INTERRUPTED = 130
USAGE = 2


class Interrupted(Exception):  # noqa: N818
    """A command was asked to stop and has; the message says how to go on."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``iwae-fast`` with these arguments (those of the process if None); always raises SystemExit."""
    try:
        code = _run(arguments)
    except (KeyboardInterrupt, Interrupted) as error:
        _say(str(error) or "interrupted")
        code = INTERRUPTED
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in EXTRA:
            raise
        from .without_extra import run_without_extra

        served = run_without_extra(sys.argv[1:] if arguments is None else arguments)
        if served is None:
            _say(f"error: {error.name} is not installed: pip install 'iwae_fast[cli]'")
        code = 1 if served is None else served
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    from ..backends import BackendError
    from ..data import DataError
    from ..experiments.checkpoint import CheckpointError
    from ..experiments.training import TrainingError
    from .app import run_app

    expected = (BackendError, CheckpointError, DataError, TrainingError, ValueError, TypeError, OSError)
    try:
        return run_app(arguments)
    except expected as error:
        if os.environ.get(DEBUG):
            raise
        _say(f"error: {' '.join(str(error).split())}")
        return USAGE


def _say(message: str) -> None:
    print(f"iwae-fast: {message}", file=sys.stderr)
