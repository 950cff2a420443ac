"""Observations in chunks of rows, from a tensor or from a loader of batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.base import LatentVariableModel, check_model
from ..models.encoding import observed_features


class Chunk(NamedTuple):
    """Consecutive observations with their context and mask."""

    first: int
    """The index of the first row among all observations."""
    x: Tensor
    context: tuple[Tensor, ...]
    mask: Tensor | None


def chunks(
    model: LatentVariableModel,
    x: Tensor | Iterable[Any],
    context: Sequence[Tensor],
    mask: Tensor | None,
    rows: int,
) -> Iterator[Chunk]:
    """Check the arguments immediately, and return chunks of ``rows`` observations; the last may have fewer.

    The chunks do not depend on a loader's batch size. A tensor without observations gives one empty chunk.

    Args:
        model: one of :mod:`iwae_fast.models`.
        x: observations (B, ...), or an iterable of batches such as a DataLoader: each a tensor (b, ...), or a tuple or
            list whose first element is such a tensor. Batches are moved to the device of the model's first parameter.
        context, mask: as for the model; must be omitted if x is an iterable.
        rows: the size of a chunk.

    Raises:
        TypeError, ValueError: an argument is invalid. Batches of an iterable are checked when they are read.
    """
    check_model(model)
    if isinstance(x, Tensor) or not isinstance(x, Iterable) or hasattr(x, "__array__") or isinstance(x, str | bytes):
        model.check_batch(x, context)  # type: ignore[arg-type]  # raises for an x that is not a tensor
        return _of_tensor(x, tuple(context), mask if mask is None else observed_features(mask, x), rows)  # type: ignore[arg-type]
    if len(context) or mask is not None:
        raise ValueError(
            "context and mask require x to be one tensor: for a loader, call this once per batch, with the context and "
            "mask of that batch (and, for log_likelihood, its observation_offset)"
        )
    return _of_batches(model, x, rows)


def _of_tensor(x: Tensor, context: tuple[Tensor, ...], mask: Tensor | None, rows: int) -> Iterator[Chunk]:
    for first in range(0, max(len(x), 1), rows):
        part = slice(first, first + rows)
        yield Chunk(first, x[part], tuple(c[part] for c in context), None if mask is None else mask[part])


def _of_batches(model: LatentVariableModel, batches: Iterable[Any], rows: int) -> Iterator[Chunk]:
    first, waiting = 0, None
    for x in _tensors(model, batches):
        waiting = x if waiting is None else torch.cat([waiting, x])
        while len(waiting) > rows:  # not >=, so that the last chunk is never empty
            yield Chunk(first, waiting[:rows], (), None)
            first, waiting = first + rows, waiting[rows:]
    if waiting is None:
        raise ValueError("x must have at least one batch, got none: an iterator can be read only once")
    yield Chunk(first, waiting, (), None)


def _tensors(model: LatentVariableModel, batches: Iterable[Any]) -> Iterator[Tensor]:
    parameter = next(model.parameters(), None)
    shape: torch.Size | None = None
    for index, batch in enumerate(batches):
        x = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
        if not isinstance(x, Tensor):
            raise TypeError(
                f"x must be a tensor or an iterable of batches, each a tensor or a tuple whose first element is one: "
                f"batch {index} is {type(batch).__name__}"
            )
        model.check_batch(x)
        if shape is not None and x.shape[1:] != shape:
            raise ValueError(
                f"batches of x must have observations of one shape: batch {index} is {tuple(x.shape)}, those before "
                f"are (b, {', '.join(map(str, shape))})"
            )
        shape = x.shape[1:]
        yield x if parameter is None else x.to(parameter.device, non_blocking=True)
