"""Arrays of observations that may stay in their file: what is indexed is read, as a NumPy array."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Stored(Protocol):
    """An array (M, ...) that returns a NumPy array when it is indexed by rows: an int, a slice, or an array or list of
    indices or of bools."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> NDArray[Any]: ...


class SparseRows:
    """A matrix that stays sparse: only the indexed rows become dense.

    Args:
        matrix: a SciPy matrix or array in the CSR format, (M, D).
    """

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.matrix.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.matrix.dtype)

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    def __getitem__(self, index: Any) -> NDArray[Any]:
        if isinstance(index, slice):
            return np.asarray(self.matrix[index].toarray())
        rows = np.arange(len(self))[index]
        found = np.asarray(self.matrix[np.atleast_1d(rows)].toarray())
        return found if np.ndim(rows) else found[0]


class ChannelsLast:
    """Color images (M, channels, height, width) as images (M, height, width, channels)."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored

    @property
    def shape(self) -> tuple[int, ...]:
        count, channels, height, width = self.stored.shape
        return count, height, width, channels

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.stored.dtype

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        return np.moveaxis(self.stored[index], -3, -1)
