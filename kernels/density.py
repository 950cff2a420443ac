"""What every density over the last axis shares: the sum over features, and the gradients, summed where broadcast.

A density is four things, given in its op's file: ``accumulate(tiles, linear, factors)`` adds one tile of each parameter
to a running sum and, where a logarithm can be put off, to a running product of numbers in [1, 2];
``gradients(tiles)`` are d log p / d each parameter; ``neutral`` is what stands in for entries that do not count, one
number a parameter, representable in every dtype; ``constant`` is what each observed feature adds besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..backends.marshal import accumulation_dtype, leading_shape
from .launch import (
    INTERPRETED,
    OPTIONS,
    Strides,
    alignment,
    broadcast_strides,
    device_of,
    load_width,
    power_of_two,
    rows,
    scalar,
    tile_rows,
)
from .memory import added, multiple, row_offset, row_offsets, store
from .sums import kahan, over_rows


class Density(NamedTuple):
    accumulate: Any
    gradients: Any
    neutral: tuple[float, ...]
    constant: float = 0.0
    has_factors: bool = False


# --- kernels ------------------------------------------------------------------------------------------------------


@triton.jit
def load_tiles(
    pointers, offsets, strides, feature, inside, counted, SELECT: tl.constexpr, NEUTRAL: tl.constexpr, ACC: tl.constexpr
):
    """A tile of each parameter in the accumulation dtype; entries that are not counted are neutral.

    What is ``inside`` is loaded, also where a mask does not count it: a load that depends on data is not vectorised.
    """
    tiles = ()
    for p in tl.static_range(len(pointers)):
        address = pointers[p] + (offsets[p][:, None] + feature[None, :] * strides[p])
        tile = tl.load(address, inside, other=NEUTRAL[p]).to(ACC)
        if SELECT:
            tile = tl.where(counted, tile, NEUTRAL[p])
        tiles = tiles + (tile,)
    return tiles


@triton.jit
def load_mask(pointer, offset, stride, feature, inside):
    return tl.load(pointer + (offset[:, None] + feature[None, :] * stride), inside, other=0) != 0


@triton.jit(do_not_specialize=["count"])
def log_prob_kernel(
    result,
    addend,
    parameters,
    mask,
    count,
    features,
    inner_sizes,
    strides,
    feature_strides,
    mask_strides,
    mask_feature_stride,
    addend_strides,
    ACCUMULATE: tl.constexpr,
    NEUTRAL: tl.constexpr,
    CONSTANT: tl.constexpr,
    HAS_FACTORS: tl.constexpr,
    ACC: tl.constexpr,
    ALIGNMENTS: tl.constexpr,
    MASK_ALIGNMENT: tl.constexpr,
    FEATURE_ALIGNMENT: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """result[row] = sum over features, plus addend[row] where there is one; a program takes ROWS rows."""
    row = tl.program_id(0).to(count.dtype) * ROWS + tl.arange(0, ROWS)
    present = row < count
    features = multiple(features, FEATURE_ALIGNMENT)
    offsets = row_offsets(row, inner_sizes, strides, ALIGNMENTS)
    if mask is not None:
        mask_offset = row_offset(row, inner_sizes, mask_strides, MASK_ALIGNMENT)
        observed_count = tl.zeros((ROWS,), tl.int64)
    total = tl.zeros((ROWS,), tl.float64)
    for first in range(0, features, STEPS * BLOCK):
        linear = tl.zeros((ROWS, BLOCK), ACC)
        factors = tl.full((ROWS, BLOCK), 1.0, ACC)
        for step in tl.static_range(STEPS):
            feature = first + step * BLOCK + tl.arange(0, BLOCK)
            inside = present[:, None] & (feature < features)[None, :]
            counted = inside
            if mask is not None:
                counted = inside & load_mask(mask, mask_offset, mask_feature_stride, feature, inside)
                observed_count += tl.sum(counted.to(tl.int32), 1)
            tiles = load_tiles(
                parameters, offsets, feature_strides, feature, inside, counted, mask is not None, NEUTRAL, ACC
            )
            linear, factors = ACCUMULATE(tiles, linear, factors)
        if HAS_FACTORS:
            linear -= tl.log(factors)
        # Few additions run in the accumulation dtype: some steps, then a tree. The rest in double.
        total += tl.sum(linear, 1).to(tl.float64)
    if CONSTANT != 0.0:
        if mask is not None:
            total += CONSTANT * observed_count.to(tl.float64)
        else:
            total += CONSTANT * features.to(tl.float64)
    if addend is not None:
        offset = row_offset(row, inner_sizes, addend_strides, 1)
        total += tl.load(addend + offset, present, other=0.0).to(tl.float64)
    store(result + row, total, present)


@triton.jit(do_not_specialize=["kept_count", "summed_count", "rows_a_split", "splits", "observations"])
def gradient_kernel(
    gradients,
    coefficients,
    grad,
    weights,
    observations,
    parameters,
    mask,
    kept_count,
    summed_count,
    rows_a_split,
    splits,
    features,
    kept_sizes,
    summed_sizes,
    kept_strides,
    summed_strides,
    feature_strides,
    gradient_kept_strides,
    gradient_summed_strides,
    mask_kept_strides,
    mask_summed_strides,
    mask_feature_stride,
    leading_kept_strides,
    leading_summed_strides,
    GRADIENTS: tl.constexpr,
    NEUTRAL: tl.constexpr,
    SUMMED: tl.constexpr,
    ACC: tl.constexpr,
    ALIGNMENTS: tl.constexpr,
    GRADIENT_ALIGNMENTS: tl.constexpr,
    MASK_ALIGNMENT: tl.constexpr,
    FEATURE_ALIGNMENT: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of the parameters that have a tensor, not None, in ``gradients``.

    A program takes one row of the kept axes, some blocks of features and one split of the rows of the summed axes. It
    writes an entry for each of those, or, for a parameter that SUMMED names, their sum (of one block only: STEPS is 1).

    The coefficient of a row is its entry of ``grad``. For a loss it is -grad * weight / observations, which is also
    the gradient of the row's log-weight, and is stored in ``coefficients`` where that is wanted.
    """
    blocks = tl.maximum(tl.cdiv(features, STEPS * BLOCK), 1)
    features = multiple(features, FEATURE_ALIGNMENT)
    program = tl.program_id(0)
    block = program % blocks
    split = (program // blocks % splits).to(summed_count.dtype)
    kept = (program // blocks // splits).to(kept_count.dtype) + tl.zeros((1,), kept_count.dtype)
    kept_offsets = row_offsets(kept, kept_sizes, kept_strides, ALIGNMENTS)
    kept_gradient_offsets = row_offsets(kept, kept_sizes, gradient_kept_strides, GRADIENT_ALIGNMENTS)
    kept_leading = row_offsets(kept, kept_sizes, leading_kept_strides, (1, 1))
    sums = ()
    errors = ()
    for p in tl.static_range(len(parameters)):
        sums = sums + (tl.zeros((ROWS if SUMMED[p] else 1, BLOCK), ACC),)
        errors = errors + (tl.zeros((ROWS if SUMMED[p] else 1, BLOCK), ACC),)

    stop = tl.minimum((split + 1) * rows_a_split, summed_count)
    for first in range(0, rows_a_split, ROWS):
        row = split * rows_a_split + first + tl.arange(0, ROWS)
        present = row < stop
        leading = row_offsets(row, summed_sizes, leading_summed_strides, (1, 1))
        coefficient = tl.load(grad + kept_leading[0] + leading[0], present, other=0.0).to(ACC)
        if weights is not None:
            weight = tl.load(weights + kept_leading[1] + leading[1], present, other=0.0)
            coefficient = tl.where(weight == 0.0, 0.0, -coefficient / observations.to(ACC) * weight)
            if coefficients is not None:
                tl.store(coefficients + kept_leading[1] + leading[1], coefficient, present & (block == 0))
        if mask is not None:
            mask_offset = row_offset(kept, kept_sizes, mask_kept_strides, MASK_ALIGNMENT)
            mask_offset += row_offset(row, summed_sizes, mask_summed_strides, MASK_ALIGNMENT)
        offsets = added(kept_offsets, row_offsets(row, summed_sizes, summed_strides, ALIGNMENTS))
        gradient_offsets = added(
            kept_gradient_offsets, row_offsets(row, summed_sizes, gradient_summed_strides, GRADIENT_ALIGNMENTS)
        )
        for step in tl.static_range(STEPS):
            feature = (block * STEPS + step) * BLOCK + tl.arange(0, BLOCK)
            inside = present[:, None] & (feature < features)[None, :]
            counted = inside
            if mask is not None:
                counted = inside & load_mask(mask, mask_offset, mask_feature_stride, feature, inside)
            tiles = load_tiles(
                parameters, offsets, feature_strides, feature, inside, counted, mask is not None, NEUTRAL, ACC
            )
            slopes = GRADIENTS(tiles)
            # A coefficient of zero gives zero, also where the slope overflows: 0 * inf would be NaN.
            used = (coefficient != 0.0)[:, None]
            if mask is not None:
                used = used & counted
            new_sums = ()
            new_errors = ()
            for p in tl.static_range(len(parameters)):
                gradient = tl.where(used, coefficient[:, None] * slopes[p], 0.0)
                if SUMMED[p]:
                    new_sum, new_error = kahan(sums[p], errors[p], gradient)
                    new_sums = new_sums + (new_sum,)
                    new_errors = new_errors + (new_error,)
                else:
                    new_sums = new_sums + (sums[p],)
                    new_errors = new_errors + (errors[p],)
                    if gradients[p] is not None:
                        store(gradients[p] + (gradient_offsets[p][:, None] + feature[None, :]), gradient, inside)
            sums = new_sums
            errors = new_errors

    for p in tl.static_range(len(parameters)):
        if SUMMED[p]:
            feature = block * BLOCK + tl.arange(0, BLOCK)
            # Each split has a copy of the gradient to itself.
            copy = split.to(tl.int64) * kept_count * features
            store(
                gradients[p] + copy + kept_gradient_offsets[p] + feature,
                over_rows(sums[p], errors[p]),
                feature < features,
            )


# --- launches -----------------------------------------------------------------------------------------------------

# A program in the interpreter costs milliseconds and an element little: few, large programs there.
TILE_BYTES, WIDEST_BLOCK, MAX_STEPS = (65536, 256, 2) if INTERPRETED else (8192, 256, 8)
"""Of each parameter, in the accumulation dtype: what a program holds at a time, and features of a row in one load of a
warp. MAX_STEPS such blocks are added up before a sum over threads (each a factor of at most 2 in a product)."""

ENOUGH_PROGRAMS, ROWS_WORTH_A_SPLIT = (4, 256) if INTERPRETED else (1024, 256)
"""Sums over rows are split among programs until there are this many, but no split gets fewer rows."""


def log_prob(
    density: Density, parameters: Sequence[Tensor], mask: Tensor | None, addend: Tensor | None = None
) -> Tensor:
    """Log-densities of the leading shape; that of ``addend``, and with it added, where there is one."""
    leading = leading_shape(*parameters) if addend is None else tuple(addend.shape)
    features = parameters[0].shape[-1]
    dtype = accumulation_dtype(*parameters, *(() if addend is None else (addend,)))
    result = parameters[0].new_empty(leading, dtype=dtype)
    strides = [broadcast_strides(p, (*leading, features)) for p in parameters]
    mask_strides = _mask_strides(mask, (*leading, features))
    addend_strides = broadcast_strides(addend, leading) if addend is not None else (0,) * len(leading)
    walk = rows(leading, (*(s[:-1] for s in strides), mask_strides[:-1], addend_strides))
    *parameter_strides, mask_rows, addend_rows = walk.strides
    block = min(power_of_two(features), 32 * load_width(*parameters), WIDEST_BLOCK)
    steps = _block_steps(features, block)
    rows_a_program = tile_rows(max(_tile_elements(result.dtype) // (steps * block), OPTIONS["num_warps"]), walk.count)
    with device_of(result):
        log_prob_kernel[(triton.cdiv(walk.count, rows_a_program),)](
            result,
            addend,
            tuple(parameters),
            mask,
            walk.count,
            features,
            walk.inner_sizes,
            tuple(parameter_strides),
            tuple(s[-1] for s in strides),
            mask_rows,
            mask_strides[-1],
            addend_rows,
            ACCUMULATE=density.accumulate,
            NEUTRAL=density.neutral,
            CONSTANT=density.constant,
            HAS_FACTORS=density.has_factors,
            ACC=scalar(result.dtype),
            ALIGNMENTS=tuple(alignment(*s) for s in parameter_strides),
            MASK_ALIGNMENT=alignment(*mask_rows),
            FEATURE_ALIGNMENT=alignment(features),
            ROWS=rows_a_program,
            STEPS=steps,
            BLOCK=block,
            **OPTIONS,
        )
    return result


def log_prob_backward(
    density: Density,
    grad: Tensor,
    parameters: Sequence[Tensor],
    mask: Tensor | None,
    needs: Sequence[bool],
    weights: Tensor | None = None,
    observations: int = 1,
    coefficients: Tensor | None = None,
) -> list[Tensor]:
    """The gradients of the needed parameters.

    For a loss ``weights`` and ``coefficients`` are (k, ...), contiguous, and the latter is filled with the gradient of
    the log-weights, -grad * weights / observations.
    """
    leading = leading_shape(*parameters) if weights is None else tuple(weights.shape)
    call = _Backward(density, grad, parameters, mask, leading, weights, observations)
    gradients = [p.new_empty(p.shape) if needed else None for p, needed in zip(parameters, needs, strict=True)]
    summed_axes = [_summed_axes(g, call.leading) if g is not None else () for g in gradients]
    everywhere = {p for p, g in enumerate(gradients) if g is not None and not summed_axes[p]}
    # One pass for each distinct set of summed axes; gradients that sum over none ride along with the first.
    passes = list(dict.fromkeys(axes for axes in summed_axes if axes)) or [()]
    for axes in passes:
        wanted = {p for p, own in enumerate(summed_axes) if axes and own == axes}
        _gradient_pass(
            call, axes, [g if p in wanted | everywhere else None for p, g in enumerate(gradients)], coefficients
        )
        everywhere, coefficients = set(), None
    return [g for g in gradients if g is not None]


class _Backward(NamedTuple):
    """What all passes of a backward call share."""

    density: Density
    grad: Tensor
    parameters: Sequence[Tensor]
    mask: Tensor | None
    leading: tuple[int, ...]
    weights: Tensor | None
    observations: int


def _gradient_pass(
    call: _Backward, axes: tuple[int, ...], gradients: list[Tensor | None], coefficients: Tensor | None
) -> None:
    """Gradients of those parameters that have a tensor; where the tensor lacks ``axes``, they are summed over these."""
    features = call.parameters[0].shape[-1]
    shape = (*call.leading, features)
    strides = [broadcast_strides(p, shape) for p in call.parameters]
    gradient_strides = [broadcast_strides(g, shape) if g is not None else (0,) * len(shape) for g in gradients]
    mask_strides = _mask_strides(call.mask, shape)
    grad_strides = broadcast_strides(call.grad, call.leading)
    weight_strides = broadcast_strides(call.weights, call.leading) if call.weights is not None else grad_strides
    operands = (*(s[:-1] for s in (*strides, *gradient_strides, mask_strides)), grad_strides, weight_strides)
    # Where nothing is summed, all axes are walked as summed ones: a tile then holds many rows.
    summed = axes or tuple(range(len(call.leading)))
    kept = tuple(a for a in range(len(call.leading)) if a not in summed)
    kept_walk, summed_walk = (
        rows(tuple(call.leading[a] for a in part), tuple(tuple(s[a] for a in part) for s in operands))
        for part in (kept, summed)
    )
    count = len(call.parameters)
    parameter_alignments, gradient_alignments, (mask_alignment, *_) = (
        tuple(alignment(*k, *s) for k, s in zip(kept_walk.strides[part], summed_walk.strides[part], strict=True))
        for part in (slice(0, count), slice(count, 2 * count), slice(2 * count, None))
    )
    dtype = accumulation_dtype(*call.parameters, call.grad)
    block = min(power_of_two(features), 32 * load_width(*call.parameters), WIDEST_BLOCK)
    steps = 1 if axes else _block_steps(features, block)
    rows_a_tile = tile_rows(
        max(TILE_BYTES // (dtype.itemsize * steps * block), OPTIONS["num_warps"]), summed_walk.count
    )
    blocks = max(triton.cdiv(features, steps * block), 1)
    rows_a_split = rows_a_tile
    if axes:
        splits = triton.cdiv(ENOUGH_PROGRAMS, max(kept_walk.count * blocks, 1))
        wanted = max(triton.cdiv(summed_walk.count, splits), min(ROWS_WORTH_A_SPLIT, summed_walk.count))
        rows_a_split = max(triton.cdiv(wanted, rows_a_tile), 1) * rows_a_tile
    splits = max(triton.cdiv(summed_walk.count, rows_a_split), 1 if axes else 0)
    is_summed = tuple(bool(axes) and g is not None and _summed_axes(g, call.leading) == axes for g in gradients)
    destinations = [
        g.new_empty((splits, *g.shape), dtype=torch.float64) if g is not None and own and splits > 1 else g
        for g, own in zip(gradients, is_summed, strict=True)
    ]
    with device_of(call.grad):
        gradient_kernel[(kept_walk.count * splits * blocks,)](
            tuple(destinations),
            coefficients,
            call.grad,
            call.weights,
            call.observations,
            tuple(call.parameters),
            call.mask,
            kept_walk.count,
            summed_walk.count,
            rows_a_split,
            splits,
            features,
            kept_walk.inner_sizes,
            summed_walk.inner_sizes,
            kept_walk.strides[:count],
            summed_walk.strides[:count],
            tuple(s[-1] for s in strides),
            kept_walk.strides[count : 2 * count],
            summed_walk.strides[count : 2 * count],
            kept_walk.strides[2 * count],
            summed_walk.strides[2 * count],
            mask_strides[-1],
            kept_walk.strides[2 * count + 1 :],
            summed_walk.strides[2 * count + 1 :],
            GRADIENTS=call.density.gradients,
            NEUTRAL=call.density.neutral,
            SUMMED=is_summed,
            ACC=scalar(dtype),
            ALIGNMENTS=parameter_alignments,
            GRADIENT_ALIGNMENTS=gradient_alignments,
            MASK_ALIGNMENT=mask_alignment,
            FEATURE_ALIGNMENT=alignment(features),
            ROWS=rows_a_tile,
            STEPS=steps,
            BLOCK=block,
            **OPTIONS,
        )
    for gradient, destination in zip(gradients, destinations, strict=True):
        if gradient is not None and destination is not gradient:
            gradient.copy_(destination.sum(0))


def _block_steps(features: int, block: int) -> int:
    """How many blocks of features to take between two sums over threads: at most MAX_STEPS, and few that are empty."""
    groups = triton.cdiv(features, MAX_STEPS * block)
    return max(triton.cdiv(features, max(groups, 1) * block), 1)


def _tile_elements(dtype: torch.dtype) -> int:
    return TILE_BYTES // dtype.itemsize


def _mask_strides(mask: Tensor | None, shape: tuple[int, ...]) -> Strides:
    return broadcast_strides(mask, shape) if mask is not None else (0,) * len(shape)


def _summed_axes(gradient: Tensor, leading: tuple[int, ...]) -> tuple[int, ...]:
    """The leading axes along which a gradient is summed: those along which its tensor is broadcast."""
    own = (1,) * (len(leading) + 1 - gradient.dim()) + tuple(gradient.shape[:-1])
    return tuple(axis for axis, (has, size) in enumerate(zip(own, leading, strict=True)) if has != size)
