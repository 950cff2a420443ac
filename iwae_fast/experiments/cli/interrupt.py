"""Handling of signals that ask to stop: training stops after a step, other commands end cleanly."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from ..launched import number_of_processes
from . import Terminated

TERMINATION = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
"""Signals to terminate: SIGHUP is sent by a terminal that closes, SIGUSR1 by SLURM before the end of a job's time. Not
every system has the last two."""
SIGNALS = (signal.SIGINT, *TERMINATION)


class StopFlag:
    """A flag whose call returns whether a signal has asked to stop."""

    def __init__(self) -> None:
        self.set = False
        self.number: int = signal.SIGINT
        """Number of the signal that arrived."""

    def __call__(self) -> bool:
        return self.set


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Set the flag at the first signal inside the context. A second one acts as usual in a single process. For the main
    thread only.

    Several processes ignore further signals: a terminal or SLURM may send the first one to torchrun and to its
    processes, to which torchrun passes it on. It kills those that do not stop.
    """
    flag = StopFlag()

    def stop(number: int, restore: Callable[[], None]) -> None:
        flag.set, flag.number = True, number
        if number_of_processes() == 1:
            restore()

    with _handled(SIGNALS, stop):
        yield flag


@contextmanager
def raise_on_termination() -> Iterator[None]:
    """Raise Terminated at a termination signal inside the context, so that files are closed and the exit code is right.

    Outside the main thread, and for signals that are ignored (as under ``nohup``), nothing is changed.
    """

    def stop(number: int, _: Callable[[], None]) -> NoReturn:
        raise Terminated(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled([number for number in TERMINATION if signal.getsignal(number) == signal.SIG_DFL], stop):
        yield


@contextmanager
def _handled(numbers: Iterable[int], handle: Callable[[int, Callable[[], None]], None]) -> Iterator[None]:
    """Call ``handle`` at these signals, with their number and a function that restores the earlier handlers."""
    earlier: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    for number in numbers:
        earlier[number] = signal.signal(number, lambda which, _: handle(which, restore))
    try:
        yield
    finally:
        restore()
