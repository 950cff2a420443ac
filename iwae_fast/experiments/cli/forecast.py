"""How long work will take, from the first part of it that was measured."""

from __future__ import annotations

import time
from collections.abc import Callable

MEASURED_SECONDS = 2.0
"""A forecast is made from so much of the work, at least: the first calls are slower than the rest."""
WORTH_SAYING = 20.0
"""Seconds; of shorter work nothing is said."""
BETWEEN_LINES = 30.0
"""Seconds between two lines of a log."""


class Forecast:
    """Announces once how long work will take, and on request says from time to time how it stands.

    Args:
        total: the amount of work, in any unit.
        announce: is called at most once, with the seconds that are left, where they are worth saying.
        remind: is called every half minute, with the part that is done and the seconds that are left.
        clock: returns seconds.
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
        """Take note that so much of the work is done; the first call starts the clock, as what was done before it may
        have been kept from an earlier time."""
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
        """Take note that so much more is done."""
        self.reach(self.done + amount)


def spoken(seconds: float) -> str:
    """Return a length of time as one would say it: 40 seconds, 5 minutes, 2.5 hours."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
