"""Tables of real numbers, counts and classes as the numbers of a model, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..likelihoods.columns import Column


@dataclass(frozen=True)
class TableColumn:
    """The code of a column: its numbers are (value - shift) / scale, or the indices of its categories."""

    name: str
    kind: str
    shift: float = 0.0
    scale: float = 1.0
    categories: NDArray[Any] | None = None
    """The categories in their order, for columns of kind "binary" and "categorical"."""

    @classmethod
    def fit(cls, name: str, kind: str, values: NDArray[Any], missing: NDArray[np.bool_]) -> TableColumn:
        """Return the code of a column, from its values (N,) that are not missing.

        A categorical column with at most two categories is binary. A column without values counts as real.
        """
        given = values[~missing]
        if kind in ("binary", "categorical") and len(given):
            categories = _categories(given)
            if len(categories) > 2:
                if kind == "binary":
                    raise ValueError(
                        f"column {name!r} is binary, but has {len(categories)} values: {list(categories[:5])}"
                    )
                return cls(name, "categorical", categories=categories)
            return cls(name, "binary", categories=categories)
        numbers = given.astype(np.float64)
        if kind == "count":
            if ((numbers < 0) | (numbers != np.round(numbers))).any():
                bad = numbers[(numbers < 0) | (numbers != np.round(numbers))][0]
                raise ValueError(f"column {name!r} must hold counts 0, 1, 2, ..., got {bad:g}")
            return cls(name, "count")
        if not len(numbers):
            return cls(name, "real")
        scale = float(numbers.std())
        # The spread of a constant column is the rounding of its mean.
        return cls(name, "real", float(numbers.mean()), scale if scale > 1e-12 * np.abs(numbers).max() else 1.0)

    @property
    def schema(self) -> Column:
        """The column for :class:`iwae_fast.likelihoods.Mixed`."""
        classes = len(self.categories) if self.kind == "categorical" and self.categories is not None else None
        return Column(self.name, self.kind, classes)

    def encode(self, values: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the numbers of values (N,), NaN where they are missing. Raises ValueError for other categories."""
        numbers = np.full(len(values), np.nan)
        given = values[~missing]
        if self.categories is None:
            numbers[~missing] = (given.astype(np.float64) - self.shift) / self.scale
            return numbers
        index = {category: i for i, category in enumerate(self.categories.tolist())}
        found = [index.get(value, -1) for value in given.tolist()]
        if -1 in found:
            raise ValueError(
                f"column {self.name!r} has the category {given[found.index(-1)]!r}, which it did not have in fit()"
            )
        numbers[~missing] = found
        return numbers

    def decode(self, numbers: NDArray[np.float64]) -> NDArray[Any]:
        """Return the values of numbers (...), of which probabilities are rounded to the category."""
        if self.categories is None:
            return numbers * self.scale + self.shift
        index = np.clip(np.round(numbers), 0, len(self.categories) - 1).astype(np.int64)
        return self.categories[index]


def _categories(given: NDArray[Any]) -> NDArray[Any]:
    try:
        return np.unique(given)
    except TypeError:  # values of several types have no order
        return np.array(list(dict.fromkeys(given.tolist())), dtype=object)


def encode(columns: Sequence[TableColumn], values: Sequence[NDArray[Any]], missing: NDArray[np.bool_]) -> NDArray[Any]:
    """Return a table of columns (N,) as numbers (N, D)."""
    encoded = [column.encode(value, gone) for column, value, gone in zip(columns, values, missing.T, strict=True)]
    return np.stack(encoded, 1)
