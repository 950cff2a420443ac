"""Observations that keep the dtype of their file until they are indexed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .stored import Stored

BYTES_AT_ONCE = 1 << 23
"""Bytes of float32 numbers per chunk in loops over a whole data set."""

AVERAGED_WHOLE = 1 << 24
"""The most numbers that are averaged by torch at once; the mean of more is summed chunk by chunk in float64."""


class Rows:
    """Observations (N, D) that are read, and converted to float32, when they are indexed.

    An instance keeps the array itself, which may be a memory-mapped file larger than memory, and the indices of its
    rows. Indexing by an int, a slice, a list or a tensor returns a float32 tensor, so an instance also serves as the
    data set of a ``torch.utils.data.DataLoader``.

    Args:
        stored: (M, ...), numbers of any dtype.
        order: int64 (N,), the selected rows of ``stored``; all of them if None.
        divisor: divides the numbers; 255 where bytes are gray levels.
        missing: the number that stands for a missing value, which becomes NaN: NaN itself where the array has it. None
            if no value is missing.
    """

    def __init__(
        self,
        stored: Stored,
        order: NDArray[np.int64] | None = None,
        divisor: float | None = None,
        missing: float | None = None,
    ) -> None:
        # The rows of a view are plain arrays too, which those of a memory-mapped one are not.
        self.stored: Stored = stored.view(np.ndarray) if isinstance(stored, np.memmap) else stored
        self.order = order
        self.divisor = divisor
        self.missing = missing

    def __len__(self) -> int:
        return len(self.stored) if self.order is None else len(self.order)

    @property
    def shape(self) -> torch.Size:
        """The shape (N, D)."""
        return torch.Size((len(self), math.prod(self.stored.shape[1:])))

    @property
    def is_bytes(self) -> bool:
        """True if each number is stored as one byte, and none is missing."""
        return self.stored.dtype in (np.uint8, np.bool_) and self.missing is None

    def __getitem__(self, index: Any) -> Tensor:
        stored = self._stored(index)
        # An int index removes the axis of observations.
        lead = stored.shape[: stored.ndim - len(self.stored.shape) + 1]
        with np.errstate(over="ignore"):  # overflow gives an infinity, which loading rejects
            values = torch.from_numpy(stored.reshape(*lead, self.shape[1]).astype(np.float32, order="C"))
        if self.missing is not None and not math.isnan(self.missing):
            values[values == self.missing] = math.nan
        return values if self.divisor is None else values.div_(self.divisor)

    def select(self, indices: Tensor) -> Rows:
        """Return the rows of these indices, as another view of the same array."""
        order = indices.numpy() if self.order is None else self.order[indices.numpy()]
        return Rows(self.stored, order, self.divisor, self.missing)

    def chunks(self, as_bytes: bool = False) -> Iterator[Tensor]:
        """Yield all rows in order, some megabytes at a time, as float32, or as the stored uint8 if ``as_bytes``."""
        at_once = max(1, BYTES_AT_ONCE // (4 * max(1, self.shape[1])))
        for first in range(0, len(self), at_once):
            part = slice(first, first + at_once)
            if as_bytes:
                yield torch.from_numpy(self._stored(part).reshape(-1, self.shape[1]).astype(np.uint8))
            else:
                yield self[part]

    def tensor(self) -> Tensor:
        """Return all rows as one float32 tensor (N, D)."""
        found = torch.empty(self.shape)
        first = 0
        for chunk in self.chunks():
            found[first : first + len(chunk)] = chunk
            first += len(chunk)
        return found

    def mean(self, dim: int = 0) -> Tensor:
        """Return the mean of each feature (D,), of its observed values if some are missing; as for a tensor, but
        ``dim`` must be 0."""
        if dim != 0:
            raise ValueError(f"dim must be 0 (the observations), got {dim}")
        if self.missing is not None:
            return self._mean_of_observed()
        if self.shape.numel() <= AVERAGED_WHOLE:
            return self.tensor().mean(0)
        total = torch.zeros(self.shape[1], dtype=torch.float64)
        for chunk in self.chunks():
            total += chunk.sum(0, dtype=torch.float64)
        return (total / len(self)).float()

    def _mean_of_observed(self) -> Tensor:
        """Return the mean of the observed values of each feature, and that of all values where none is observed."""
        totals, counts = torch.zeros(2, self.shape[1], dtype=torch.float64)
        for chunk in self.chunks():
            totals += chunk.nansum(0, dtype=torch.float64)
            counts += (~chunk.isnan()).sum(0)
        return torch.where(counts > 0, totals / counts, totals.sum() / counts.sum()).float()

    def _stored(self, index: Any) -> NDArray[Any]:
        """Return the indexed rows in the dtype and shape of the file."""
        if isinstance(index, Tensor):
            index = index.numpy()
        return self.stored[index if self.order is None else self.order[index]]


Observations: TypeAlias = Tensor | Rows
"""Rows (N, D): a float32 tensor, or a :class:`Rows` that returns one when it is indexed."""


def select(observations: Observations, indices: Tensor) -> Observations:
    """Return the observations of these indices; a :class:`Rows` is not copied."""
    return observations.select(indices) if isinstance(observations, Rows) else observations[indices]


def chunks(observations: Observations) -> Iterator[Tensor]:
    """Return all observations in order: :class:`Rows` as float32 tensors of bounded size, a tensor whole."""
    return observations.chunks() if isinstance(observations, Rows) else iter((observations,))


def fingerprint(observations: Observations) -> str:
    """Return a digest of the shape and the float32 numbers in their order, independent of how they are stored."""
    digest = hashlib.sha256(f"{tuple(observations.shape)}".encode())
    for chunk in chunks(observations):
        digest.update(chunk.cpu().contiguous().numpy().data)
    return digest.hexdigest()
