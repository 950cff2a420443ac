"""The gradients of a dense layer, or of several linear layers of one input, in one launch: of the weights, the biases
and the input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import INTERPRETED, Layout, device_of, layout
from .layer_gradients import write_hidden_gradient, write_weight_gradient
from .layer_tiles import (
    MOST_SPLITS,
    ROWS_A_SPLIT,
    VARYING,
    Plan,
    aligned,
    alignments,
    constants,
    of_layer,
    of_one_layout,
    pointer_of_layer,
    tile_of,
)
from .linear_tiles import precision_of
from .memory import multiple, store
from .overlap import begin_kernel


@triton.jit(do_not_specialize=VARYING)
def backward_kernel(
    grad_hidden,
    grad_weights,
    grad_biases,
    grads,
    kept,
    hidden,
    weights,
    coefficient,
    result,
    rows,
    weight_programs,
    rows_a_split,
    columns,
    width,
    grad_strides,
    kept_strides,
    hidden_strides,
    weight_strides,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    GRAD_ALIGNMENTS: tl.constexpr,
    KEPT_ALIGNMENTS: tl.constexpr,
    HIDDEN_ALIGNMENTS: tl.constexpr,
    WEIGHT_ALIGNMENTS: tl.constexpr,
    COLUMN_ALIGNMENT: tl.constexpr,
    WIDTH_ALIGNMENT: tl.constexpr,
    ALIGNED: tl.constexpr,
    WEIGHT_TILE: tl.constexpr,
    HIDDEN_TILE: tl.constexpr,
):
    """Write the gradients of weights and biases, summed over the rows of a split, in the first programs, whose sums are
    the longer ones; that of ``hidden`` in the others. The tiles are (ROWS, COLUMNS, INNER, PARTS)."""
    begin_kernel()
    width = multiple(width, WIDTH_ALIGNMENT)
    program = tl.program_id(0)
    if program < weight_programs:
        if grad_weights[0] is not None or grad_biases[0] is not None:
            across = tl.cdiv(width, WEIGHT_TILE[1]) if grad_weights[0] is not None else 1
            first = (0,)
            tiles = across * tl.cdiv(columns[0], WEIGHT_TILE[0])
            for i in tl.static_range(1, len(columns)):
                first = first + (tiles,)
                tiles += across * tl.cdiv(columns[i], WEIGHT_TILE[0])
            tile = program % tiles
            grad_weight, grad_bias = grad_weights[0], grad_biases[0]
            if grad_weight is not None:
                grad_weight = pointer_of_layer(grad_weights, first, tile, ALIGNED)
            if grad_bias is not None:
                grad_bias = pointer_of_layer(grad_biases, first, tile, ALIGNED)
            write_weight_gradient(
                grad_weight,
                grad_bias,
                pointer_of_layer(grads, first, tile, ALIGNED),
                kept,
                hidden,
                coefficient,
                result,
                tile - of_layer(first, first, tile),
                across,
                program // tiles,
                rows,
                rows_a_split,
                multiple(of_layer(columns, first, tile), COLUMN_ALIGNMENT),
                width,
                (of_layer(grad_strides[0], first, tile), of_layer(grad_strides[1], first, tile)),
                kept_strides,
                hidden_strides,
                ACTIVATION,
                PRECISION,
                ACC,
                GRAD_ALIGNMENTS,
                KEPT_ALIGNMENTS,
                HIDDEN_ALIGNMENTS,
                WEIGHT_TILE[0],
                WEIGHT_TILE[1],
                WEIGHT_TILE[2],
                WEIGHT_TILE[3],
            )
    elif grad_hidden is not None:
        write_hidden_gradient(
            grad_hidden,
            grads,
            kept,
            weights,
            coefficient,
            result,
            program - weight_programs,
            rows,
            columns,
            width,
            grad_strides,
            kept_strides,
            weight_strides,
            ACTIVATION,
            PRECISION,
            ACC,
            GRAD_ALIGNMENTS,
            KEPT_ALIGNMENTS,
            WEIGHT_ALIGNMENTS,
            COLUMN_ALIGNMENT,
            HIDDEN_TILE[0],
            HIDDEN_TILE[1],
            HIDDEN_TILE[2],
            HIDDEN_TILE[3],
        )


@triton.jit
def sum_kernel(weight_sum, bias_sum, weights, biases, splits, weight_size, bias_size, BLOCK: tl.constexpr):
    """Add the splits' sums of the gradients of weight and bias, in order; either may be None."""
    begin_kernel()
    first = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if weights is not None:
        add_splits(weight_sum, weights, first, splits, weight_size)
    if biases is not None:
        add_splits(bias_sum, biases, first, splits, bias_size)


@triton.jit
def add_splits(result, parts, at, splits, size):
    inside = at < size
    total = tl.zeros_like(at).to(tl.float64)
    for _ in range(splits):
        total += tl.load(parts + at, inside, other=0.0).to(tl.float64)
        parts += size
    store(result + at, total, inside)


def linear_activation_backward(
    grad: Tensor,
    kept: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    activation: str,
    needs_grad: Sequence[bool],
    coefficient: Tensor | None = None,
    result: Tensor | None = None,
) -> list[Tensor]:
    """Return the gradients of hidden, weight and bias.

    ``coefficient`` multiplies the rows of ``grad``; a row whose coefficient is 0 contributes nothing, and one whose
    ``result`` is NaN gives NaN otherwise. Both have one number per row, contiguous.
    """
    of_hidden, (of_weight,), (of_bias,) = _launch(
        [grad], kept, hidden, [weight], activation, tuple(map(bool, needs_grad)), coefficient, result
    )
    return [gradient for gradient in (of_hidden, of_weight, of_bias) if gradient is not None]


def linear_heads_backward(
    grads: Sequence[Tensor], hidden: Tensor, weights: Sequence[Tensor], needs_grad: Sequence[bool]
) -> list[Tensor]:
    """Return the needed gradients of hidden, of the weights, and of the biases of layers without activation."""
    count = len(weights)
    needs = bool(needs_grad[0]), any(needs_grad[1 : count + 1]), any(needs_grad[count + 1 :])
    of_hidden, of_weights, of_biases = _launch(grads, None, hidden, weights, "none", needs)
    every = (of_hidden, *of_weights, *of_biases)
    return [gradient for gradient, needed in zip(every, needs_grad, strict=False) if needed and gradient is not None]


def _launch(
    grads: Sequence[Tensor],
    kept: Tensor | None,
    hidden: Tensor,
    weights: Sequence[Tensor],
    activation: str,
    needs_grad: tuple[bool, bool, bool],
    coefficient: Tensor | None = None,
    result: Tensor | None = None,
) -> tuple[Tensor | None, list[Tensor | None], list[Tensor | None]]:
    """Return the gradients of hidden, of all weights, and of all biases; None for those that are not needed."""
    rows, width = hidden.shape[:-1].numel(), weights[0].shape[1]
    flat, weights = hidden.reshape(rows, width), of_one_layout(weights)
    grads = [grad.reshape(rows, len(weight)) for grad, weight in zip(grads, weights, strict=True)]
    kept = None if kept is None else kept.reshape(rows, len(weights[0]))
    needs = needs_grad
    if not width:  # the weights' gradients are empty: nothing is launched for them
        needs = (False, False, needs[2])
    layouts = tuple(map(layout, grads)), layout(kept), layout(flat), tuple(map(layout, weights))
    plan = _plan(hidden.dtype, precision_of(hidden.dtype), needs, *layouts)
    of_hidden = hidden.new_empty(hidden.shape) if needs_grad[0] else None
    of_weights = [weight.new_empty(weight.shape) if needs_grad[1] else None for weight in weights]
    of_biases = [weight.new_empty(len(weight)) if needs_grad[2] else None for weight in weights]
    sums_of_weights, sums_of_biases = of_weights if needs[1] else [None] * len(weights), of_biases
    if plan.splits > 1:
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        sums_of_weights, sums_of_biases = (
            [g if g is None else g.new_empty((plan.splits, *g.shape), dtype=dtype) for g in sums]
            for sums in (sums_of_weights, sums_of_biases)
        )
    with device_of(hidden) as options:
        if plan.grid[0]:
            backward_kernel[plan.grid](
                of_hidden if needs[0] else None, tuple(sums_of_weights), tuple(sums_of_biases),
                tuple(grads), kept, flat, tuple(weights), coefficient, result, *plan.numbers, ACTIVATION=activation,
                ALIGNED=len(weights) > 1 and aligned(*sums_of_weights, *sums_of_biases, *grads), **plan.constants,
                **options,
            )  # fmt: skip
        if plan.splits > 1:
            for result_and_sums in zip(of_weights, of_biases, sums_of_weights, sums_of_biases, strict=True):
                _add_splits(*result_and_sums, plan.splits, options)
    return of_hidden, of_weights, of_biases


def _add_splits(
    weight: Tensor | None,
    bias: Tensor | None,
    weights: Tensor | None,
    biases: Tensor | None,
    splits: int,
    options: dict[str, bool],
) -> None:
    sizes = [0 if sums is None else sums[0].numel() for sums in (weights, biases)]
    block = 2**16 if INTERPRETED else 512
    grid = (triton.cdiv(max(sizes), block),)
    if grid[0]:
        sum_kernel[grid](weight, bias, weights, biases, splits, *sizes, BLOCK=block, **options)


@lru_cache(maxsize=1024)
def _plan(
    dtype: torch.dtype,
    precision: str,
    needs: tuple[bool, bool, bool],
    grads: tuple[Layout, ...],
    kept: Layout | None,
    hidden: Layout,
    weights: tuple[Layout, ...],
) -> Plan:
    rows, width = hidden.sizes
    columns = tuple(weight.sizes[0] for weight in weights)
    splits = min(max(triton.cdiv(rows, ROWS_A_SPLIT), 1), MOST_SPLITS)
    of_weights, of_hidden = tile_of([(own, width) for own in columns], splits), tile_of([(rows, width)])
    step = of_weights.parts * of_weights.inner
    weight_programs = 0
    if needs[1] or needs[2]:
        weight_programs = splits * of_weights.programs([(own, width if needs[1] else 1) for own in columns])
    hidden_programs = of_hidden.programs([(rows, width)]) if needs[0] else 0
    return Plan(
        (weight_programs + hidden_programs,),
        (
            rows,
            weight_programs,
            triton.cdiv(triton.cdiv(rows, splits), step) * step,
            columns,
            width,
            tuple(zip(*(grad.strides for grad in grads), strict=True)),
            (0, 0) if kept is None else kept.strides,
            hidden.strides,
            weights[0].strides,
        ),
        {
            **constants(dtype, precision, columns, width, min(of_weights.stages, of_hidden.stages)),
            "GRAD_ALIGNMENTS": alignments(*grads),
            "KEPT_ALIGNMENTS": alignments(kept),
            "HIDDEN_ALIGNMENTS": alignments(hidden),
            "WEIGHT_ALIGNMENTS": alignments(weights[0]),
            "WEIGHT_TILE": of_weights[:4],
            "HIDDEN_TILE": of_hidden[:4],
        },
        splits,
    )
