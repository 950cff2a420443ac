"""A dense layer, activation(hidden @ weight.T + bias), in one launch, and its backward pass in one launch.

Layers of variational autoencoders are small: at 20 rows a product of 784 to 200 columns has 4000 results. Tiles are
therefore small, and the four warps of a program divide the sum of a result among themselves, instead of programs whose
partial sums a further launch would add. The warps' parts are added in a fixed order, so every run gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .activations import activated, derivative
from .launch import INTERPRETED, Layout, alignment, device_of, layout, scalar
from .linear_tiles import add_product, precision_of
from .memory import multiple, store
from .overlap import begin_kernel


class Tile(NamedTuple):
    """A tile of results and the steps in which its sums are computed."""

    rows: int
    columns: int
    inner: int
    """The terms of a sum that a part takes per step."""
    parts: int
    """The parts of a sum: 1 if all warps compute each step's product together, else one per warp."""
    stages: int
    """The steps whose loads are under way at a time."""
    least: int
    """The least number of programs for which this tile is chosen."""

    def programs(self, rows: int, columns: int) -> int:
        return triton.cdiv(rows, self.rows) * triton.cdiv(columns, self.columns)


# The first tile that gives enough programs for the 132 multiprocessors of an H100, or the last one. Chosen by counting
# programs and bytes and by the compiled code (no register is spilled); not by times, since none has run on a GPU.
TILES = (
    Tile(64, 64, 16, parts=1, stages=3, least=96),
    Tile(32, 64, 16, parts=4, stages=2, least=96),
    Tile(32, 32, 16, parts=4, stages=3, least=48),
    Tile(16, 16, 32, parts=4, stages=3, least=0),
)
WARPS = 4
ROWS_A_SPLIT, MOST_SPLITS = 2048, 16
"""The rows that one program sums for the gradients of weights and biases, until there are MOST_SPLITS such sums. 20
observations with 50 samples are one sum; larger batches take a second launch, which adds the sums in order."""
if INTERPRETED:  # few programs, and each of the ways
    TILES = (Tile(64, 64, 64, parts=1, stages=1, least=2), Tile(64, 64, 16, parts=4, stages=1, least=0))
    ROWS_A_SPLIT, MOST_SPLITS = 256, 3

VARYING = ["rows", "weight_programs", "rows_a_split"]


def tile_of(rows: int, columns: int, splits: int = 1) -> Tile:
    """Return the tile for results of this shape, of which each is summed in this many splits."""
    return next(tile for tile in TILES if tile.programs(rows, columns) * splits >= tile.least)


@triton.jit
def on_axis(index, AXIS: tl.constexpr, PARTS: tl.constexpr):
    """Return the positions of a tile's rows (AXIS 0) or columns (1), to be broadcast to the tile, or to one per
    part."""
    if PARTS == 1:
        return index[:, None] if AXIS == 0 else index[None, :]
    else:
        return index[None, :, None] if AXIS == 0 else index[None, None, :]


@triton.jit
def along_sum(AXIS: tl.constexpr, PARTS: tl.constexpr, INNER: tl.constexpr):
    """Return the positions of a step's terms along a sum, on this axis of a tile, or of the tile of each part."""
    if PARTS == 1:
        index = tl.arange(0, INNER)
        return index[:, None] if AXIS == 0 else index[None, :]
    else:
        index = tl.arange(0, PARTS)[:, None] * INNER + tl.arange(0, INNER)[None, :]
        return index[:, :, None] if AXIS == 0 else index[:, None, :]


@triton.jit
def zeros(ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr, ACC: tl.constexpr):
    return tl.zeros((ROWS, COLUMNS) if PARTS == 1 else (PARTS, ROWS, COLUMNS), ACC)


@triton.jit
def load_at(pointer, row, column, strides, inside, ALIGNMENTS: tl.constexpr):
    """Load elements of a matrix, 0 where not inside."""
    offset = row.to(tl.int64) * multiple(strides[0], ALIGNMENTS[0]) + column * multiple(strides[1], ALIGNMENTS[1])
    return tl.load(pointer + offset, inside, other=0.0)


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


@triton.jit(do_not_specialize=["rows"])
def forward_kernel(
    output,
    before,
    hidden,
    weight,
    bias,
    rows,
    columns,
    width,
    hidden_strides,
    weight_strides,
    bias_stride,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    HIDDEN_ALIGNMENTS: tl.constexpr,
    WEIGHT_ALIGNMENTS: tl.constexpr,
    COLUMN_ALIGNMENT: tl.constexpr,
    WIDTH_ALIGNMENT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Write output = activation(hidden @ weight.T + bias), and the activation's input unless ``before`` is None; a
    program writes one tile."""
    begin_kernel()
    columns = multiple(columns, COLUMN_ALIGNMENT)
    width = multiple(width, WIDTH_ALIGNMENT)
    across = tl.cdiv(columns, COLUMNS)
    row = (tl.program_id(0) // across) * ROWS + tl.arange(0, ROWS)
    column = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)
    left_row, right_column = on_axis(row, 0, PARTS), on_axis(column, 1, PARTS)
    total = zeros(ROWS, COLUMNS, PARTS, ACC)
    for first in range(0, width, PARTS * INNER):
        left_term = first + along_sum(1, PARTS, INNER)
        right_term = first + along_sum(0, PARTS, INNER)
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


@triton.jit
def write_weight_gradient(
    grad_weight,
    grad_bias,
    grad,
    kept,
    hidden,
    coefficient,
    result,
    program,
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
    across = tl.cdiv(width, COLUMNS) if grad_weight is not None else 1
    tiles = across * tl.cdiv(columns, ROWS)
    split = program // tiles
    row = ((program % tiles) // across) * ROWS + tl.arange(0, ROWS)
    column = (program % across) * COLUMNS + tl.arange(0, COLUMNS)
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
        store(grad_bias + split * columns + row, tl.sum(sums, 1), (row < columns) & (program % across == 0))


@triton.jit
def write_hidden_gradient(
    grad_hidden,
    grad,
    kept,
    weight,
    coefficient,
    result,
    program,
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
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Write a tile of the gradient of ``hidden``."""
    across = tl.cdiv(width, COLUMNS)
    row = (program // across) * ROWS + tl.arange(0, ROWS)
    column = (program % across) * COLUMNS + tl.arange(0, COLUMNS)
    left_row, right_column = on_axis(row, 0, PARTS), on_axis(column, 1, PARTS)
    total = zeros(ROWS, COLUMNS, PARTS, ACC)
    for first in range(0, columns, PARTS * INNER):
        left_term = first + along_sum(1, PARTS, INNER)
        left = load_gradient(
            grad,
            kept,
            coefficient,
            result,
            left_row,
            left_term,
            rows,
            columns,
            grad_strides,
            kept_strides,
            GRAD_ALIGNMENTS,
            KEPT_ALIGNMENTS,
            ACTIVATION,
            ACC,
        )
        right_term = first + along_sum(0, PARTS, INNER)
        inside = (right_term < columns) & (right_column < width)
        right = load_at(weight, right_term, right_column, weight_strides, inside, WEIGHT_ALIGNMENTS)
        total = add_product(total, left.to(weight.dtype.element_ty), right, PRECISION)
    if PARTS > 1:
        total = tl.sum(total, 0)
    address = row.to(tl.int64)[:, None] * width + column[None, :]
    store(grad_hidden + address, total, (row < rows)[:, None] & (column < width)[None, :])


@triton.jit(do_not_specialize=VARYING)
def backward_kernel(
    grad_hidden,
    grad_weight,
    grad_bias,
    grad,
    kept,
    hidden,
    weight,
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
    WEIGHT_TILE: tl.constexpr,
    HIDDEN_TILE: tl.constexpr,
):
    """Write the gradients of the weight and the bias, summed over the rows of a split, in the first programs, whose
    sums are the longer ones; that of ``hidden`` in the others. The tiles are (ROWS, COLUMNS, INNER, PARTS)."""
    begin_kernel()
    columns = multiple(columns, COLUMN_ALIGNMENT)
    width = multiple(width, WIDTH_ALIGNMENT)
    program = tl.program_id(0)
    if program < weight_programs:
        if grad_weight is not None or grad_bias is not None:
            write_weight_gradient(
                grad_weight,
                grad_bias,
                grad,
                kept,
                hidden,
                coefficient,
                result,
                program,
                rows,
                rows_a_split,
                columns,
                width,
                grad_strides,
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
            grad,
            kept,
            weight,
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


def linear_activation(hidden: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep: bool) -> list[Tensor]:
    """Return activation(hidden @ weight.T + bias) and, with ``keep``, the activation's input."""
    flat = hidden.reshape(hidden.shape[:-1].numel(), hidden.shape[-1])
    shape = (*hidden.shape[:-1], len(weight))
    results = [hidden.new_empty(shape) for _ in range(1 + keep)]
    if results[0].numel():
        plan = _forward_plan(hidden.dtype, precision_of(hidden.dtype), *map(layout, (flat, weight, bias)))
        with device_of(hidden) as options:
            forward_kernel[plan.grid](
                results[0], results[1] if keep else None, flat, weight, bias,
                *plan.numbers, ACTIVATION=activation, **plan.constants, **options,
            )  # fmt: skip
    return results


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
    rows, (columns, width) = hidden.shape[:-1].numel(), weight.shape
    flat, grad = hidden.reshape(rows, width), grad.reshape(rows, columns)
    kept = None if kept is None else kept.reshape(rows, columns)
    needs = tuple(map(bool, needs_grad))
    if not width:  # the weight's gradient is empty: nothing is launched for it
        needs = (False, False, needs[2])
    plan = _backward_plan(
        hidden.dtype, precision_of(hidden.dtype), needs,
        *map(layout, (grad, kept, flat, weight)),
    )  # fmt: skip
    shapes = (hidden.shape, weight.shape, weight.shape[:1])
    gradients = [hidden.new_empty(shape) if needed else None for shape, needed in zip(shapes, needs_grad, strict=True)]
    written = [gradient if needed else None for gradient, needed in zip(gradients, needs, strict=True)]
    if plan.splits > 1:
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        written[1:] = [g if g is None else g.new_empty((plan.splits, *g.shape), dtype=dtype) for g in written[1:]]
    with device_of(hidden) as options:
        if plan.grid[0]:
            backward_kernel[plan.grid](
                *written, grad, kept, flat, weight, coefficient, result,
                *plan.numbers, ACTIVATION=activation, **plan.constants, **options,
            )  # fmt: skip
        if plan.splits > 1 and any(needs[1:]):
            sizes = columns * width, columns
            block = 2**16 if INTERPRETED else 512
            grid = (triton.cdiv(max(s for s, needed in zip(sizes, needs[1:], strict=True) if needed), block),)
            if grid[0]:
                sum_kernel[grid](*gradients[1:], *written[1:], plan.splits, *sizes, BLOCK=block, **options)
    return [gradient for gradient in gradients if gradient is not None]


class _Plan(NamedTuple):
    """The parameters of a launch except its tensors and the activation."""

    grid: tuple[int]
    numbers: tuple[Any, ...]
    """Arguments of the kernel from ``rows`` on."""
    constants: dict[str, Any]
    splits: int = 1


def _constants(dtype: torch.dtype, precision: str, columns: int, width: int, stages: int) -> dict[str, Any]:
    return {
        "PRECISION": precision,
        "ACC": scalar(dtype),
        "COLUMN_ALIGNMENT": alignment(columns),
        "WIDTH_ALIGNMENT": alignment(width),
        "num_warps": WARPS,
        "num_stages": stages,
        "enable_fp_fusion": True,
    }


def _alignments(operand: Layout | None) -> tuple[int, ...]:
    return (1, 1) if operand is None else tuple(alignment(stride) for stride in operand.strides)


@lru_cache(maxsize=1024)
def _forward_plan(dtype: torch.dtype, precision: str, hidden: Layout, weight: Layout, bias: Layout | None) -> _Plan:
    rows, (columns, width) = hidden.sizes[0], weight.sizes
    tile = tile_of(rows, columns)
    return _Plan(
        (tile.programs(rows, columns),),
        (rows, columns, width, hidden.strides, weight.strides, 0 if bias is None else bias.strides[0]),
        {
            **_constants(dtype, precision, columns, width, tile.stages),
            "HIDDEN_ALIGNMENTS": _alignments(hidden),
            "WEIGHT_ALIGNMENTS": _alignments(weight),
            "ROWS": tile.rows,
            "COLUMNS": tile.columns,
            "INNER": tile.inner,
            "PARTS": tile.parts,
        },
    )


@lru_cache(maxsize=1024)
def _backward_plan(
    dtype: torch.dtype,
    precision: str,
    needs: tuple[bool, bool, bool],
    grad: Layout,
    kept: Layout | None,
    hidden: Layout,
    weight: Layout,
) -> _Plan:
    rows, (columns, width) = hidden.sizes[0], weight.sizes
    splits = min(max(triton.cdiv(rows, ROWS_A_SPLIT), 1), MOST_SPLITS)
    of_weight, of_hidden = tile_of(columns, width, splits), tile_of(rows, width)
    step = of_weight.parts * of_weight.inner
    weight_programs = 0
    if needs[1] or needs[2]:
        weight_programs = splits * of_weight.programs(columns, width if needs[1] else 1)
    hidden_programs = of_hidden.programs(rows, width) if needs[0] else 0
    return _Plan(
        (weight_programs + hidden_programs,),
        (
            rows,
            weight_programs,
            triton.cdiv(triton.cdiv(rows, splits), step) * step,
            columns,
            width,
            grad.strides,
            (0, 0) if kept is None else kept.strides,
            hidden.strides,
            weight.strides,
        ),
        {
            **_constants(dtype, precision, columns, width, min(of_weight.stages, of_hidden.stages)),
            "GRAD_ALIGNMENTS": _alignments(grad),
            "KEPT_ALIGNMENTS": _alignments(kept),
            "HIDDEN_ALIGNMENTS": _alignments(hidden),
            "WEIGHT_ALIGNMENTS": _alignments(weight),
            "WEIGHT_TILE": of_weight[:4],
            "HIDDEN_TILE": of_hidden[:4],
        },
        splits,
    )
