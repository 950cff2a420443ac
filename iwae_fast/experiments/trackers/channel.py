"""Calls of a tracker in a thread of their own, so that it can neither delay nor stop training."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

LAST_SECONDS = 60.0
"""The longest wait at the end of a run for what is not logged yet."""

Call = tuple[Callable[..., Any], tuple[Any, ...]]


class Channel:
    """Calls that a thread makes in order. The first one that raises an exception is the last one.

    Args:
        failed: function that is called with that exception, or with a TimeoutError if the calls do not end.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self.failed = failed
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._broken = False
        # A daemon: a call that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Make a call, some time after those before it."""
        self._calls.put((function, arguments))

    def close(self, seconds: float = LAST_SECONDS) -> None:
        """Wait until all calls are made, at most for some seconds."""
        self._calls.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive() and not self._broken:
            self._broken = True
            self.failed(TimeoutError(f"it did not end within {seconds:g} seconds"))

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._broken:
                continue
            function, arguments = call
            try:
                function(*arguments)
            except BaseException as error:  # a library may raise SystemExit
                if not self._broken:
                    self._broken = True
                    self.failed(error)
