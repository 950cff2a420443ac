"""Observations that stay in the numbers of their file until they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BYTES_AT_ONCE = 1 << 23
"""The float32 numbers that are converted at a time where a whole data set is gone through."""

AVERAGED_WHOLE = 1 << 24
"""Up to so many numbers are averaged by torch in one go; the mean of more is summed part by part in float64."""


class Rows:
    """Observations (N, D) that are read, and become float32, when they are indexed.

    What is kept is the array itself, which may be a memory-mapped file larger than memory, and which of its rows are
    meant. Indexing by an int, a slice, a list or a tensor gives a float32 tensor, so an instance also serves as the
    data set of a ``torch.utils.data.DataLoader``.

    Args:
        stored: (M, ...), numbers of any dtype.
        order: int64 (N,), the rows of ``stored`` that are meant; all of them if None.
        divisor: divides the numbers, as 255 does where bytes are grey levels.
    """

    def __init__(
        self, stored: NDArray[Any], order: NDArray[np.int64] | None = None, divisor: float | None = None
    ) -> None:
        self.stored = stored.view(np.ndarray)
        self.order = order
        self.divisor = divisor

    def __len__(self) -> int:
        return len(self.stored) if self.order is None else len(self.order)

    @property
    def shape(self) -> torch.Size:
        """N and D."""
        return torch.Size((len(self), int(np.prod(self.stored.shape[1:]))))

    @property
    def is_bytes(self) -> bool:
        """Whether a byte each is stored."""
        return self.stored.dtype in (np.uint8, np.bool_)

    def __getitem__(self, index: Any) -> Tensor:
        stored = self._stored(index)
        # One observation has an axis less.
        lead = stored.shape[: stored.ndim - self.stored.ndim + 1]
        with np.errstate(over="ignore"):  # to an infinity, which loading looks for
            values = torch.from_numpy(stored.reshape(*lead, -1).astype(np.float32, order="C"))
        return values if self.divisor is None else values.div_(self.divisor)

    def select(self, indices: Tensor) -> Rows:
        """The rows of these indices, as another view of the same array."""
        order = indices.numpy() if self.order is None else self.order[indices.numpy()]
        return Rows(self.stored, order, self.divisor)

    def chunks(self, as_bytes: bool = False) -> Iterator[Tensor]:
        """Give all rows in their order, some megabytes at a time; as the bytes that are stored, uint8, if asked for."""
        at_once = max(1, BYTES_AT_ONCE // (4 * max(1, self.shape[1])))
        for first in range(0, len(self), at_once):
            part = slice(first, first + at_once)
            if as_bytes:
                yield torch.from_numpy(self._stored(part).reshape(-1, self.shape[1]).astype(np.uint8))
            else:
                yield self[part]

    def tensor(self) -> Tensor:
        """All rows as one float32 tensor (N, D)."""
        found = torch.empty(self.shape)
        first = 0
        for chunk in self.chunks():
            found[first : first + len(chunk)] = chunk
            first += len(chunk)
        return found

    def mean(self, dim: int = 0) -> Tensor:
        """The mean of each feature (D,), as of a tensor: ``dim`` is 0."""
        if dim != 0:
            raise ValueError(f"dim must be 0, the observations, got {dim}")
        if self.shape.numel() <= AVERAGED_WHOLE:
            return self.tensor().mean(0)
        total = torch.zeros(self.shape[1], dtype=torch.float64)
        for chunk in self.chunks():
            total += chunk.sum(0, dtype=torch.float64)
        return (total / len(self)).float()

    def _stored(self, index: Any) -> NDArray[Any]:
        """Some rows in the dtype and shape of the file."""
        if isinstance(index, Tensor):
            index = index.numpy()
        return self.stored[index if self.order is None else self.order[index]]


Observations: TypeAlias = Tensor | Rows
"""Rows (N, D): a float32 tensor, or numbers that become one when they are indexed."""


def select(observations: Observations, indices: Tensor) -> Observations:
    """The observations of these indices; of rows that stay in their file no copy is made."""
    return observations.select(indices) if isinstance(observations, Rows) else observations[indices]


def chunks(observations: Observations) -> Iterator[Tensor]:
    """All observations in their order, as float32 tensors of bounded size or as the one tensor that they are."""
    return observations.chunks() if isinstance(observations, Rows) else iter((observations,))


def fingerprint(observations: Observations) -> str:
    """A digest that is the same for the same numbers in the same order, however they are stored, and for no others."""
    digest = hashlib.sha256(f"{tuple(observations.shape)}".encode())
    for chunk in chunks(observations):
        digest.update(chunk.cpu().contiguous().numpy().data)
    return digest.hexdigest()
