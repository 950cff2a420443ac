"""Tiles of the gradients of a dense layer: of its weight and bias from the same loads, and of its input."""

from __future__ import annotations

import triton
import triton.language as tl

from .activations import derivative
from .layer_tiles import along_sum, load_at, on_axis, zeros
from .linear_tiles import add_product
from .memory import multiple, store


@triton.jit
def coefficient_of(coefficient, result, row, present, ACC: tl.constexpr):
    """Return the factor of each row's gradient: NaN where the row's result is NaN, unless the factor is 0."""
    factor = tl.load(coefficient + row, present, other=0.0).to(ACC)
    if result is not None:
        undefined = tl.load(result + row, present, other=0.0)
        factor = tl.where((factor != 0.0) & (undefined != undefined), float("nan"), factor)
    return factor


@triton.jit
def load_gradient(
    grad,
    kept,
    coefficient,
    result,
    row,
    column,
    rows,
    columns,
    grad_strides,
    kept_strides,
    GRAD_ALIGNMENTS: tl.constexpr,
    KEPT_ALIGNMENTS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ACC: tl.constexpr,
):
    """Load a tile of the upstream gradient and return that of the activation's input."""
    inside = (row < rows) & (column < columns)
    tile = load_at(grad, row, column, grad_strides, inside, GRAD_ALIGNMENTS).to(ACC)
    if kept is not None:
        tile *= derivative(load_at(kept, row, column, kept_strides, inside, KEPT_ALIGNMENTS).to(ACC), ACTIVATION)
    if coefficient is not None:
        factor = coefficient_of(coefficient, result, row, row < rows, ACC)
        tile = tl.where(factor == 0.0, 0.0, tile * factor)
    return tile


@triton.jit
def write_weight_gradient(
    grad_weight,
    grad_bias,
    grad,
    kept,
    hidden,
    coefficient,
    result,
    tile,
    across,
    split,
    rows,
    rows_a_split,
    columns,
    width,
    grad_strides,
    kept_strides,
    hidden_strides,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    GRAD_ALIGNMENTS: tl.constexpr,
    KEPT_ALIGNMENTS: tl.constexpr,
    HIDDEN_ALIGNMENTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Write a tile of a split's sum over rows: the weight's gradient, and the bias's from the same loads."""
    row = (tile // across) * ROWS + tl.arange(0, ROWS)
    column = (tile % across) * COLUMNS + tl.arange(0, COLUMNS)
    left_row, right_column = on_axis(row, 0, PARTS), on_axis(column, 1, PARTS)
    total = zeros(ROWS, COLUMNS, PARTS, ACC)
    sums = zeros(ROWS, INNER, PARTS, ACC)
    start = split * rows_a_split
    stop = tl.minimum(start + rows_a_split, rows)
    for first in range(start, stop, PARTS * INNER):
        left_term = first + along_sum(1, PARTS, INNER)
        left = load_gradient(
            grad,
            kept,
            coefficient,
            result,
            left_term,
            left_row,
            stop,
            columns,
            grad_strides,
            kept_strides,
            GRAD_ALIGNMENTS,
            KEPT_ALIGNMENTS,
            ACTIVATION,
            ACC,
        )
        if grad_bias is not None:
            sums += left
        if grad_weight is not None:
            right_term = first + along_sum(0, PARTS, INNER)
            inside = (right_term < stop) & (right_column < width)
            right = load_at(hidden, right_term, right_column, hidden_strides, inside, HIDDEN_ALIGNMENTS)
            if coefficient is not None:  # a factor of 0 must give 0, also where an input is infinite
                factor = tl.load(coefficient + right_term, right_term < stop, other=0.0)
                right = tl.where(factor == 0.0, 0.0, right).to(right.dtype)
            total = add_product(total, left.to(hidden.dtype.element_ty), right, PRECISION)
    if grad_weight is not None:
        if PARTS > 1:
            total = tl.sum(total, 0)
        address = (split.to(tl.int64) * columns + row.to(tl.int64)[:, None]) * width + column[None, :]
        store(grad_weight + address, total, (row < columns)[:, None] & (column < width)[None, :])
    if grad_bias is not None:
        if PARTS > 1:
            sums = tl.sum(sums, 0)
        store(grad_bias + split * columns + row, tl.sum(sums, 1), (row < columns) & (tile % across == 0))


@triton.jit
def write_hidden_gradient(
    grad_hidden,
    grads,
    kept,
    weights,
    coefficient,
    result,
    tile,
    rows,
    columns,
    width,
    grad_strides,
    kept_strides,
    weight_strides,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    GRAD_ALIGNMENTS: tl.constexpr,
    KEPT_ALIGNMENTS: tl.constexpr,
    WEIGHT_ALIGNMENTS: tl.constexpr,
    COLUMN_ALIGNMENT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Write a tile of the gradient of ``hidden``, a sum over all layers."""
    across = tl.cdiv(width, COLUMNS)
    row = (tile // across) * ROWS + tl.arange(0, ROWS)
    column = (tile % across) * COLUMNS + tl.arange(0, COLUMNS)
    left_row, right_column = on_axis(row, 0, PARTS), on_axis(column, 1, PARTS)
    total = zeros(ROWS, COLUMNS, PARTS, ACC)
    for layer in tl.static_range(len(weights)):
        grad, weight = grads[layer], weights[layer]
        strides = (grad_strides[0][layer], grad_strides[1][layer])
        terms = multiple(columns[layer], COLUMN_ALIGNMENT)
        for start in range(0, terms, PARTS * INNER):
            left_term = start + along_sum(1, PARTS, INNER)
            left = load_gradient(
                grad,
                kept,
                coefficient,
                result,
                left_row,
                left_term,
                rows,
                terms,
                strides,
                kept_strides,
                GRAD_ALIGNMENTS,
                KEPT_ALIGNMENTS,
                ACTIVATION,
                ACC,
            )
            right_term = start + along_sum(0, PARTS, INNER)
            inside = (right_term < terms) & (right_column < width)
            right = load_at(weight, right_term, right_column, weight_strides, inside, WEIGHT_ALIGNMENTS)
            total = add_product(total, left.to(weight.dtype.element_ty), right, PRECISION)
    if PARTS > 1:
        total = tl.sum(total, 0)
    address = row.to(tl.int64)[:, None] * width + column[None, :]
    store(grad_hidden + address, total, (row < rows)[:, None] & (column < width)[None, :])
