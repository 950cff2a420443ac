"""The command line, ``iwae-fast`` or ``python -m iwae_fast``. Importing this imports neither torch nor what the library
does not need, and without the ``cli`` extra ``info`` is served all the same."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from ...files import reason

EXTRA = ("filelock", "requests", "jinja2", "matplotlib", "pooch", "rich", "safetensors", "sklearn", "typer")
"""Top-level modules of the optional dependencies ``cli``."""

DEBUG = "IWAE_FAST_DEBUG"
SIGNALED = 128
"""A process that a signal ended exits with this and the signal's number, as shells have it."""
INTERRUPTED = SIGNALED + signal.SIGINT
USAGE = 2


class Interrupted(Exception):  # noqa: N818
    """A command was asked to stop by a signal and has stopped; the message says how to go on."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


class Terminated(BaseException):
    """SIGTERM or SIGHUP came where nothing else waits for it, as KeyboardInterrupt is for SIGINT."""

    def __init__(self, number: int) -> None:
        super().__init__("terminated")
        self.number = number


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``iwae-fast`` with these arguments (those of the process if None); always raises SystemExit."""
    from .interrupt import raise_on_termination

    # OpenMP reads it when torch is imported. A thread that spins while it waits keeps its core from whoever has work:
    # beside one busy process training took five to ten times as long; a thread that sleeps costs some 5 %.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        with raise_on_termination():
            code = _run(arguments)
    except KeyboardInterrupt:
        _say("interrupted")
        code = INTERRUPTED
    except (Interrupted, Terminated) as error:
        _say(str(error))
        code = SIGNALED + error.number
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
    from .app import run_app

    try:
        return run_app(arguments)
    except ModuleNotFoundError:
        raise
    except Exception as error:
        if os.environ.get(DEBUG) or not _is_expected(error):
            raise
        _say(f"error: {' '.join(_explain(error).split())}")
        return USAGE


def _is_expected(error: Exception) -> bool:
    """Return whether the error is about what the user gave or has, so that its message is all that helps."""
    if isinstance(error, ValueError | TypeError | OSError):
        return True
    # Imported only where an error asks for it: these import torch.
    from ...backends import BackendError
    from ...data import DataError
    from ..train.checkpoint import CheckpointError
    from ..train.training import TrainingError

    return isinstance(error, BackendError | CheckpointError | DataError | TrainingError)


def _explain(error: Exception) -> str:
    """Return the message of an error; the system's own say what failed with which file, not an error number."""
    if not isinstance(error, OSError):
        return str(error)
    return reason(error) if error.filename is None else f"{error.filename}: {reason(error)}"


def _say(message: str) -> None:
    print(f"iwae-fast: {message}", file=sys.stderr)
