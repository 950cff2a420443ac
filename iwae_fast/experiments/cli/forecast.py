"""Forecast of the duration of work from the measured first part of it."""

from __future__ import annotations

import time
from collections.abc import Callable

MEASURED_SECONDS = 2.0
"""The least measured time for a forecast, because the first calls are slower than the rest."""
WORTH_SAYING = 20.0
"""The least remaining seconds that are announced."""
BETWEEN_LINES = 30.0
"""Seconds between two progress lines of a log."""


class Forecast:
    """A forecast that is announced once, optionally followed by regular progress reports.

    Args:
        total: amount of work, in any unit.
        announce: called at most once, with the seconds left, if there are at least :data:`WORTH_SAYING`.
        remind: called every :data:`BETWEEN_LINES` seconds, with the fraction done and the seconds left.
        clock: function that returns seconds.
    """

    def __init__(
        self,
        total: int,
        announce: Callable[[float], None],
        remind: Callable[[float, float], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.total = total
        self.announce = announce
        self.remind = remind
        self.clock = clock
        self.done = 0
        self._from: tuple[float, int] | None = None
        self._said: float | None = None

    def reach(self, done: int) -> None:
        """Record that the amount ``done`` is done.

        The first call starts the clock, because the work before it may be that of an earlier process.
        """
        self.done = done
        now = self.clock()
        if self._from is None:
            self._from = now, done
            return
        began, first = self._from
        if done <= first or now - began < MEASURED_SECONDS:
            return
        left = (now - began) / (done - first) * max(self.total - done, 0)
        if self._said is None:
            self._said = now
            if left >= WORTH_SAYING:
                self.announce(left)
        elif self.remind is not None and now - self._said >= BETWEEN_LINES:
            self._said = now
            self.remind(done / self.total, left)

    def add(self, amount: int) -> None:
        """Record that ``amount`` more is done."""
        self.reach(self.done + amount)


def spoken(seconds: float) -> str:
    """Return a duration in words: 40 seconds, 5 minutes, 2.5 hours."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
