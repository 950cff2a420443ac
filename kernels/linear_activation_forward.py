"""A dense layer, activation(hidden @ weight.T + bias), or several linear layers of one input, in one launch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from .activations import activated
from .launch import Layout, device_of, layout
from .layer_tiles import (
    Plan,
    aligned,
    alignments,
    along_sum,
    constants,
    load_at,
    of_layer,
    of_one_layout,
    on_axis,
    pointer_of_layer,
    tile_of,
    zeros,
)
from .linear_tiles import add_product, precision_of
from .memory import multiple, store
from .overlap import begin_kernel


@triton.jit(do_not_specialize=["rows"])
def forward_kernel(
    outputs,
    before,
    hidden,
    weights,
    biases,
    rows,
    columns,
    width,
    hidden_strides,
    weight_strides,
    bias_strides,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    HIDDEN_ALIGNMENTS: tl.constexpr,
    WEIGHT_ALIGNMENTS: tl.constexpr,
    COLUMN_ALIGNMENT: tl.constexpr,
    WIDTH_ALIGNMENT: tl.constexpr,
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Write output = activation(hidden @ weight.T + bias) of each layer, and the activation's input unless ``before``
    is None; a program writes one tile."""
    begin_kernel()
    program = tl.program_id(0)
    first = (0,)
    for i in tl.static_range(1, len(columns)):
        first = first + (first[i - 1] + tl.cdiv(rows, ROWS) * tl.cdiv(columns[i - 1], COLUMNS),)
    output = pointer_of_layer(outputs, first, program, ALIGNED)
    weight = pointer_of_layer(weights, first, program, ALIGNED)
    columns = multiple(of_layer(columns, first, program), COLUMN_ALIGNMENT)
    bias_stride = of_layer(bias_strides, first, program)
    bias = biases[0]
    if bias is not None:
        bias = pointer_of_layer(biases, first, program, ALIGNED)
    program -= of_layer(first, first, program)

    width = multiple(width, WIDTH_ALIGNMENT)
    across = tl.cdiv(columns, COLUMNS)
    row = (program // across) * ROWS + tl.arange(0, ROWS)
    column = (program % across) * COLUMNS + tl.arange(0, COLUMNS)
    left_row, right_column = on_axis(row, 0, PARTS), on_axis(column, 1, PARTS)
    total = zeros(ROWS, COLUMNS, PARTS, ACC)
    for start in range(0, width, PARTS * INNER):
        left_term = start + along_sum(1, PARTS, INNER)
        right_term = start + along_sum(0, PARTS, INNER)
        left = load_at(
            hidden, left_row, left_term, hidden_strides, (left_row < rows) & (left_term < width), HIDDEN_ALIGNMENTS
        )
        right_inside = (right_column < columns) & (right_term < width)
        right = load_at(weight, right_column, right_term, weight_strides, right_inside, WEIGHT_ALIGNMENTS)
        total = add_product(total, left, right, PRECISION)
    if PARTS > 1:
        total = tl.sum(total, 0)
    if bias is not None:
        total += tl.load(bias + column * bias_stride, column < columns, other=0.0).to(ACC)[None, :]
    address = row.to(tl.int64)[:, None] * columns + column[None, :]
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    if before is not None:
        store(before + address, total, inside)
    store(output + address, activated(total, ACTIVATION), inside)


def linear_activation(hidden: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep: bool) -> list[Tensor]:
    """Return activation(hidden @ weight.T + bias) and, with ``keep``, the activation's input."""
    before = hidden.new_empty((*hidden.shape[:-1], len(weight))) if keep else None
    (output,) = _launch(hidden, [weight], [bias], activation, before)
    return [output] if before is None else [output, before]


def linear_heads(hidden: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    """Return hidden @ weight.T + bias for each weight; there is one bias per weight, or none."""
    return _launch(hidden, of_one_layout(weights), biases or [None] * len(weights), "none", None)


def _launch(
    hidden: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], activation: str, before: Tensor | None
) -> list[Tensor]:
    flat = hidden.reshape(hidden.shape[:-1].numel(), hidden.shape[-1])
    outputs = [hidden.new_empty((*hidden.shape[:-1], len(weight))) for weight in weights]
    plan = _plan(
        hidden.dtype, precision_of(hidden.dtype), layout(flat), tuple(map(layout, weights)), tuple(map(layout, biases))
    )
    if plan.grid[0]:
        with device_of(hidden) as options:
            forward_kernel[plan.grid](
                tuple(outputs), before, flat, tuple(weights), tuple(biases), *plan.numbers, ACTIVATION=activation,
                ALIGNED=len(weights) > 1 and aligned(*outputs, *weights, *biases), **plan.constants,
                **options,
            )  # fmt: skip
    return outputs


@lru_cache(maxsize=1024)
def _plan(
    dtype: torch.dtype, precision: str, hidden: Layout, weights: tuple[Layout, ...], biases: tuple[Layout | None, ...]
) -> Plan:
    rows, width = hidden.sizes
    columns = tuple(weight.sizes[0] for weight in weights)
    shapes = [(rows, own) for own in columns]
    tile = tile_of(shapes)
    return Plan(
        (tile.programs(shapes),),
        (
            rows,
            columns,
            width,
            hidden.strides,
            weights[0].strides,
            tuple(0 if bias is None else bias.strides[0] for bias in biases),
        ),
        {
            **constants(dtype, precision, columns, width, tile.stages),
            "HIDDEN_ALIGNMENTS": alignments(hidden),
            "WEIGHT_ALIGNMENTS": alignments(weights[0]),
            "ROWS": tile.rows,
            "COLUMNS": tile.columns,
            "INNER": tile.inner,
            "PARTS": tile.parts,
        },
    )
