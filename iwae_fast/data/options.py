"""Options of reading a user's file."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class FileOptions:
    """The parts of a user's file that are read, and what its numbers mean.

    Raises ValueError for a fraction of 0 or less, or of 1 or more, and for a divisor that is not positive.
    """

    test: str | None = None
    """Path of another file, all of whose observations are the test set."""
    split: float | str | None = None
    """Fraction of the observations that is the test set, or the name of the column or array that says for each
    observation whether it is for training, validation or the test."""
    labels: str | None = None
    """Name of the column or array with the labels, which are kept for plots and are not part of an observation."""
    array: str | None = None
    """Name of the array with the observations; of a table, the columns separated by commas."""
    missing: str | None = None
    """Value that stands for a missing one: "nan", another number, or a text in a table; None if none is missing."""
    divide_by: float | None = None
    """Divisor of all numbers, such as 255 for gray levels that are not stored as bytes."""
    whole_numbers: bool = False
    """True if bytes are counts or classes, not gray levels."""
    unsplit: bool = False
    """True to use all of a single array as the test set, and as the training set too."""
    optional: bool = False
    """True if ``array``, ``labels`` and ``split`` may be names that the file does not have."""

    def __post_init__(self) -> None:
        if self.fraction is not None and not 0.0 < self.fraction < 1.0:
            raise ValueError(f"split must be a fraction between 0 and 1, or a column's name, got {self.split}")
        if self.divide_by is not None and not (self.divide_by > 0.0 and math.isfinite(self.divide_by)):
            raise ValueError(f"divide_by must be positive and finite, got {self.divide_by}")

    @property
    def fraction(self) -> float | None:
        """The fraction of the test set, if ``split`` is one."""
        return float(self.split) if isinstance(self.split, int | float) else None

    @property
    def column(self) -> str | None:
        """The name of the column or array that divides the observations, if ``split`` is one."""
        return self.split if isinstance(self.split, str) else None

    @property
    def marker(self) -> float | None:
        """The number that stands for a missing value; NaN also for a text, which a reader of tables replaces."""
        if self.missing is None:
            return None
        try:
            return float(self.missing)
        except ValueError:
            return math.nan
