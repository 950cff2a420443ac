"""The command line, ``iwae-fast`` or ``python -m iwae_fast``.

Importing this module imports neither torch nor the packages of the ``cli`` extra, without which only ``info`` works.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence

from ...files import reason
from ..launched import number_of_processes, rank

EXTRA = ("filelock", "requests", "jinja2", "matplotlib", "platformdirs", "rich", "safetensors", "sklearn", "typer")
"""Top-level modules of the optional dependencies ``cli``."""

OF_FILES = ("PIL", "h5py", "pandas", "pyarrow", "scipy")
"""Top-level modules of the optional dependencies ``files``, whose errors name the extra."""

DEBUG = "IWAE_FAST_DEBUG"
SIGNALED = 128
"""Base of the exit code of a process ended by a signal, to which the signal's number is added, as in shells."""
INTERRUPTED = SIGNALED + signal.SIGINT
USAGE = 2


class Interrupted(Exception):  # noqa: N818
    """A signal stopped a command; the message says how to resume."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


class Terminated(BaseException):
    """SIGTERM, SIGHUP or SIGUSR1 arrived outside training; the counterpart of KeyboardInterrupt for SIGINT."""

    def __init__(self, number: int) -> None:
        super().__init__("terminated")
        self.number = number


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``iwae-fast`` with these arguments (those of the process if None); always raise SystemExit."""
    from .interrupt import raise_on_termination

    # OpenMP reads this when torch is imported. Threads that spin while waiting occupy cores that other processes need:
    # beside one busy process training took five to ten times as long. Threads that sleep cost about 5 %.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if rank():  # the first of several processes prints for all of them
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
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
        package = (error.name or "").split(".")[0]
        if package in OF_FILES:
            _say(_one_line(error))
            sys.exit(1)
        if package not in EXTRA:
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
    except (ModuleNotFoundError, Interrupted):
        raise
    except Exception as error:
        expected = is_expected(error)
        if number_of_processes() > 1:
            return _fail_of_several(error, expected)
        if not expected:
            raise
        _say(one_line(error))
        return USAGE


def _fail_of_several(error: Exception, expected: bool) -> int:
    """Show the error of one of several processes, unless it is a consequence of another one's."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    from ..processes import is_loss_of_another

    if not expected and is_loss_of_another(error):
        _say(f"process {rank()} ends because another one has ended ({error})")
        return 1
    get_error_handler().record_exception(error)  # for the summary of torchrun
    _say(one_line(error) if expected else f"process {rank()} failed:\n{traceback.format_exc()}")
    return USAGE if expected else 1


def one_line(error: Exception) -> str:
    """Return the message of an error as one line."""
    return f"error: {' '.join(_explain(error).split())}"


def is_expected(error: Exception) -> bool:
    """Return whether the error is about the user's input or files, so that its message suffices without a traceback,
    unless the environment asks for one."""
    if os.environ.get(DEBUG):
        return False
    if isinstance(error, ValueError | TypeError | OSError):
        return True
    # Imported only after an error, because these import torch.
    from ...backends import BackendError
    from ...data import DataError
    from ..train.checkpoint import CheckpointError
    from ..train.training import TrainingError

    return isinstance(error, BackendError | CheckpointError | DataError | TrainingError)


def _explain(error: Exception) -> str:
    """Return the message of an error; a system error names the file and the reason, without the error number."""
    if not isinstance(error, OSError):
        return str(error)
    return reason(error) if error.filename is None else f"{error.filename}: {reason(error)}"


def _say(message: str) -> None:
    """Print a message on the standard error, unless another process has failed before and this is a consequence."""
    if number_of_processes() > 1:
        from ..processes import fails_first

        if not fails_first():
            return
    print(f"iwae-fast: {message}", file=sys.stderr)
