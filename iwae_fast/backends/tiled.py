"""A linear layer and the Bernoulli likelihood of its output, a tile of rows at a time, without storing all logits.

The matrix products are torch's, on tiles large enough to be efficient; the likelihood is the backend's. The backward
pass recomputes the logits of each tile, so that nothing of the size of all logits is ever stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import accumulation_dtype

ROWS_A_TILE = {"cpu": 1024, "cuda": 2048}
"""Rows of a tile. On a GPU a backward pass holds a tile's logits and their gradient: 12.8 MB of float32 at 784
features, less than a tenth of the 161 MB of all logits of 51,200 rows."""

Index = tuple[slice, ...]

WHOLE: Index = ()


class TileLikelihood(NamedTuple):
    """A backend's log-probability of a tile of logits, and its gradients."""

    log_prob: Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
    """Function of value, the layer's products, its bias and a mask; may overwrite the products."""
    backward: Callable[[Tensor, Tensor, Tensor, Tensor | None, Sequence[bool]], list[Tensor]]


def log_prob(
    likelihood: TileLikelihood, value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
) -> Tensor:
    leading = torch.broadcast_shapes(value.shape[:-1], hidden.shape[:-1])
    rows = ROWS_A_TILE[hidden.device.type]
    layer = _Layer(hidden, weight, leading)
    if leading.numel() <= rows:
        _, products = layer(WHOLE)
        return likelihood.log_prob(value, products, bias, mask)
    result = hidden.new_empty(leading, dtype=accumulation_dtype(value, hidden))
    value, mask = _expanded(value, leading), None if mask is None else _expanded(mask, leading)
    for index in tiles(leading, rows):
        _, products = layer(index)
        result[index] = likelihood.log_prob(value[index], products, bias, None if mask is None else mask[index])
    return result


def log_prob_backward(
    likelihood: TileLikelihood,
    grad: Tensor,
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Return the needed gradients of value, hidden, weight and bias."""
    leading = torch.broadcast_shapes(value.shape[:-1], hidden.shape[:-1])
    layer = _Layer(hidden, weight, leading)
    # Sums over tiles use the same accumulation dtype as those within a matrix product.
    sums = accumulation_dtype(weight)
    grad_value = value.new_zeros((1,) * (len(leading) + 1 - value.dim()) + value.shape, dtype=sums)
    grad_hidden = hidden.new_empty((*leading, hidden.shape[-1]))
    grad_weight = weight.new_zeros(weight.shape, dtype=sums)
    grad_bias = weight.new_zeros(weight.shape[:1], dtype=sums)
    expanded, mask = _expanded(value, leading), None if mask is None else _expanded(mask, leading)
    for index in tiles(leading, ROWS_A_TILE[hidden.device.type]):
        inputs, logits = layer(index, bias)
        observed = None if mask is None else mask[index]
        *by_value, by_logits = likelihood.backward(grad[index], expanded[index], logits, observed, [needs[0], True])
        if needs[0]:
            target = grad_value[
                tuple(s if n > 1 else slice(None) for s, n in zip(index, grad_value.shape, strict=False))
            ]
            target += by_value[0].sum_to_size(target.shape)
        rows = by_logits.reshape(len(inputs), -1)
        if needs[1]:
            grad_hidden[index] = torch.mm(rows, weight).view(grad_hidden[index].shape)
        if needs[2]:
            if sums == weight.dtype:
                grad_weight.addmm_(rows.t(), inputs)
            else:
                grad_weight += torch.mm(rows.t(), inputs)
        if needs[3]:
            grad_bias += rows.sum(0, dtype=sums)
    gradients = (
        grad_value.reshape(value.shape).to(value.dtype),
        grad_hidden.sum_to_size(hidden.shape),
        grad_weight.to(weight.dtype),
        grad_bias.to(weight.dtype),
    )
    return [gradient for gradient, needed in zip(gradients, needs, strict=True) if needed]


class _Layer:
    """Rows of a tile and their products with the weight, in memory shared by all tiles."""

    def __init__(self, hidden: Tensor, weight: Tensor, leading: torch.Size) -> None:
        self.hidden = _expanded(hidden, leading)
        self.weight = weight.t()
        rows = min(max(ROWS_A_TILE[hidden.device.type], 1), math.prod(leading))
        self.products = hidden.new_empty(rows, weight.shape[0])

    def __call__(self, index: Index, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        part = self.hidden[index]
        rows = part.reshape(math.prod(part.shape[:-1]), part.shape[-1])
        products = self.products[: len(rows)]
        if bias is None:
            torch.mm(rows, self.weight, out=products)
        else:
            torch.addmm(bias, rows, self.weight, out=products)
        return rows, products.view(*part.shape[:-1], products.shape[-1])


def tiles(leading: torch.Size | tuple[int, ...], rows: int) -> Iterator[Index]:
    """Yield index tuples that cover the leading axes in order, each with at most ``rows`` rows, or one if that is 0."""
    if not leading:
        yield WHOLE
        return
    inner = math.prod(leading[1:])
    if inner > rows:
        for first in range(leading[0]):
            for rest in tiles(leading[1:], rows):
                yield (slice(first, first + 1), *rest)
    elif inner:
        step = max(rows // inner, 1)
        for first in range(0, leading[0], step):
            yield (slice(first, first + step),)


def _expanded(tensor: Tensor, leading: torch.Size) -> Tensor:
    return tensor.expand(*leading, tensor.shape[-1])
