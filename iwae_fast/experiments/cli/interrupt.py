"""Signals that ask to stop: during training they wait for the end of a step, elsewhere they end the command cleanly."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from . import Terminated

TERMINATION = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The last is the signal of a terminal that closes, which not every system has."""
SIGNALS = (signal.SIGINT, *TERMINATION)


class StopFlag:
    """Calling it tells whether a signal has asked to stop."""

    def __init__(self) -> None:
        self.set = False
        self.number: int = signal.SIGINT
        """The signal that came."""

    def __call__(self) -> bool:
        return self.set


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Inside, a first one of the signals sets the flag; a second one acts as usual. Main thread only."""
    flag = StopFlag()

    def stop(number: int, restore: Callable[[], None]) -> None:
        flag.set, flag.number = True, number
        restore()

    with _handled(SIGNALS, stop):
        yield flag


@contextmanager
def raise_on_termination() -> Iterator[None]:
    """Inside, what asks the process to end raises Terminated, so that files are closed and the exit code is right.

    In another thread than the main one, and for signals that are ignored (as ``nohup`` has it), nothing is changed.
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
    """Inside, the signals call ``handle`` with their number and a function that restores the earlier handlers."""
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
