"""Ctrl-C that waits for the end of a step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The last is that of a terminal that closes, which not every system has."""


class StopFlag:
    """Calling it tells whether a signal has asked to stop."""

    def __init__(self) -> None:
        self.set = False

    def __call__(self) -> bool:
        return self.set


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Inside, a first one of the signals sets the flag; a second one acts as usual. Main thread only."""
    flag = StopFlag()
    earlier: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    def stop(*_: Any) -> None:
        flag.set = True
        restore()

    for number in SIGNALS:
        earlier[number] = signal.signal(number, stop)
    try:
        yield flag
    finally:
        restore()
