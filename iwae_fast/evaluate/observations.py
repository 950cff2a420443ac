"""Observations in chunks of rows, from a tensor or from a loader of batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..models.encoding import observed_features

if TYPE_CHECKING:
    from .sources import Source


class Chunk(NamedTuple):
    """Consecutive observations with their context and mask."""

    first: int
    """The index of the first row among all observations."""
    x: Tensor
    context: tuple[Tensor, ...]
    mask: Tensor | None


def chunks(
    source: Source,
    x: Tensor | Iterable[Any],
    context: Sequence[Tensor],
    mask: Tensor | None,
    rows: int,
) -> Iterator[Chunk]:
    """Check the arguments immediately, and return chunks of ``rows`` observations; the last may have fewer.

    The chunks do not depend on a loader's batch size. A tensor without observations gives one empty chunk.

    Args:
        source: the model.
        x: observations (B, ...), or an iterable of batches such as a DataLoader, as the source takes them: each a
            tensor (b, ...), or a tuple or list whose first element is such a tensor. Batches are moved to the device of
            the source.
        context, mask: as for the source; must be omitted if x is an iterable.
        rows: the size of a chunk.

    Raises:
        TypeError, ValueError: an argument is invalid. Batches of an iterable are checked when they are read.
    """
    if isinstance(x, Tensor) or not isinstance(x, Iterable) or hasattr(x, "__array__") or isinstance(x, str | bytes):
        source.check(x, context)  # raises for an x that is not a tensor
        return _of_tensor(x, tuple(context), mask if mask is None else observed_features(mask, x), rows)  # type: ignore[arg-type]
    if len(context) or mask is not None:
        raise ValueError(
            "context and mask require x to be one tensor: for a loader, call this once per batch, with the context and "
            "mask of that batch (and, for log_likelihood, its observation_offset)"
        )
    return _of_batches(source, x, rows)


def _of_tensor(x: Tensor, context: tuple[Tensor, ...], mask: Tensor | None, rows: int) -> Iterator[Chunk]:
    for first in range(0, max(len(x), 1), rows):
        part = slice(first, first + rows)
        yield Chunk(first, x[part], tuple(c[part] for c in context), None if mask is None else mask[part])


def _of_batches(source: Source, batches: Iterable[Any], rows: int) -> Iterator[Chunk]:
    first, waiting = 0, None
    for tensors in _tensors(source, batches):
        waiting = tensors if waiting is None else [torch.cat(pair) for pair in zip(waiting, tensors, strict=True)]
        while len(waiting[0]) > rows:  # not >=, so that the last chunk is never empty
            x, *context = (tensor[:rows] for tensor in waiting)
            yield Chunk(first, x, tuple(context), None)
            first, waiting = first + rows, [tensor[rows:] for tensor in waiting]
    if waiting is None:
        raise ValueError("x must have at least one batch, got none: an iterator can be read only once")
    yield Chunk(first, waiting[0], tuple(waiting[1:]), None)


def _tensors(source: Source, batches: Iterable[Any]) -> Iterator[list[Tensor]]:
    """Return x and the context of each batch, on the device of the source."""
    shapes: list[torch.Size] | None = None
    for index, batch in enumerate(batches):
        x, context = source.parts(batch, index)
        source.check(x, context)
        tensors = [x, *context]
        found = [tensor.shape[1:] for tensor in tensors]
        if shapes is not None and found != shapes:
            differing = [i for i, pair in enumerate(zip(found, shapes, strict=False)) if pair[0] != pair[1]] or [0]
            raise ValueError(
                f"batches of x must have observations of one shape: batch {index} is "
                f"{tuple(tensors[differing[0]].shape)}, those before are "
                f"(b, {', '.join(map(str, shapes[differing[0]]))})"
            )
        shapes = found
        device = source.device
        yield tensors if device is None else [tensor.to(device, non_blocking=True) for tensor in tensors]
