"""The gradients of a density's parameters, summed over broadcast axes: one launch per set of summed axes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import accumulation_dtype
from .density import Density, block_of_features, load_mask, load_tiles, rows_of_tile, steps_of_blocks
from .launch import (
    INTERPRETED,
    OPTIONS,
    Layout,
    alignment,
    broadcast_strides,
    contiguous,
    device_of,
    layout,
    leading_sizes,
    rows,
    scalar,
    tile_rows,
)
from .memory import added, multiple, row_offset, row_offsets, store
from .overlap import begin_kernel
from .sums import kahan, over_rows

ENOUGH_PROGRAMS, ROWS_WORTH_A_SPLIT = (4, 256) if INTERPRETED else (1024, 256)
"""Sums over rows are split among programs until there are ENOUGH_PROGRAMS, with at least ROWS_WORTH_A_SPLIT rows per
split."""


@triton.jit(do_not_specialize=["kept_count", "summed_count", "rows_a_split", "splits", "observations"])
def gradient_kernel(
    gradients,
    coefficients,
    grad,
    weights,
    parameters,
    mask,
    observations,
    kept_count,
    summed_count,
    rows_a_split,
    splits,
    features,
    kept_sizes,
    summed_sizes,
    kept_strides,
    summed_strides,
    gradient_kept_strides,
    gradient_summed_strides,
    leading_kept_strides,
    leading_summed_strides,
    mask_kept_strides,
    mask_summed_strides,
    feature_strides,
    mask_feature_stride,
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
    """Write the gradients of the parameters that have a tensor, not None, in ``gradients``.

    A program handles one row of the kept axes, STEPS blocks of features and one split of the rows of the summed axes.
    For a parameter with SUMMED it writes the sum over these rows (of one block only: STEPS is 1), for others one entry
    per row.

    The coefficient of a row is its entry of ``grad``. For a loss it is -grad * weight / observations, which is also the
    gradient of the row's log-weight, and is stored in ``coefficients`` unless that is None.
    """
    begin_kernel()
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
            stopped = (weight == 0.0) | (coefficient == 0.0)
            coefficient = tl.where(stopped, 0.0, -coefficient / observations.to(ACC) * weight)
            if coefficients is not None:
                if block == 0:  # one of the programs of all blocks writes them
                    tl.store(coefficients + kept_leading[1] + leading[1], coefficient, present)
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
            # A coefficient of zero must give zero, also if the slope overflows: 0 * inf would be NaN.
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
            # Each split writes to its own copy of the gradient.
            copy = split.to(tl.int64) * kept_count * features
            store(
                gradients[p] + copy + kept_gradient_offsets[p] + feature,
                over_rows(sums[p], errors[p]),
                feature < features,
            )


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
    """Return the gradients of the needed parameters.

    For a loss ``weights`` and ``coefficients`` are (k, ...) and contiguous, and ``coefficients`` is filled with the
    gradient of the log-weights, -grad * weights / observations.
    """
    dtype = accumulation_dtype(*parameters, grad)
    layouts = tuple(map(layout, parameters))
    gradients = [p.new_empty(p.shape) if needed else None for p, needed in zip(parameters, needs, strict=True)]
    for plan in _plan(density, dtype, layout(grad), layouts, layout(mask), layout(weights), tuple(needs)):
        written = [g if wanted else None for g, wanted in zip(gradients, plan.wanted, strict=True)]
        if plan.splits > 1:
            written = [
                g.new_empty((plan.splits, *g.shape), dtype=torch.float64) if summed else g
                for g, summed in zip(written, plan.summed, strict=True)
            ]
        with device_of(grad) as options:
            gradient_kernel[plan.grid](
                tuple(written),
                coefficients,
                grad,
                weights,
                tuple(parameters),
                mask,
                observations,
                *plan.numbers,
                **plan.constants,
                **options,
            )
        if plan.splits > 1:
            for gradient, parts, summed in zip(gradients, written, plan.summed, strict=True):
                if summed:
                    gradient.copy_(parts.sum(0))
        coefficients = None  # filled by the first pass
    return [g for g in gradients if g is not None]


class _Pass(NamedTuple):
    """The parameters of a launch except its tensors."""

    wanted: tuple[bool, ...]
    """True for each parameter whose gradient is written."""
    summed: tuple[bool, ...]
    """True for each parameter whose gradient is a sum over rows."""
    splits: int
    """Number of parts of these sums; if more than one, each is written to its own copy, in double, and added
    afterwards."""
    grid: tuple[int]
    numbers: tuple[Any, ...]
    """Arguments of the kernel from ``kept_count`` on."""
    constants: dict[str, Any]


@lru_cache(maxsize=1024)
def _plan(
    density: Density,
    dtype: torch.dtype,
    grad: Layout,
    parameters: tuple[Layout, ...],
    mask: Layout | None,
    weights: Layout | None,
    needs: tuple[bool, ...],
) -> tuple[_Pass, ...]:
    """Return one pass per distinct set of summed axes; gradients without summed axes are computed in the first."""
    leading = leading_sizes(parameters) if weights is None else weights.sizes
    axes = [_summed_axes(p, leading) if needed else () for p, needed in zip(parameters, needs, strict=True)]
    waiting = [needed and not own for needed, own in zip(needs, axes, strict=True)]
    passes = []
    for summed_axes in list(dict.fromkeys(own for own in axes if own)) or [()]:
        summed = tuple(bool(own) and own == summed_axes for own in axes)
        wanted = tuple(s or w for s, w in zip(summed, waiting, strict=True))
        waiting = [False] * len(axes)
        passes.append(_plan_pass(density, dtype, grad, parameters, mask, weights, leading, summed_axes, wanted, summed))
    return tuple(passes)


def _plan_pass(
    density: Density,
    dtype: torch.dtype,
    grad: Layout,
    parameters: tuple[Layout, ...],
    mask: Layout | None,
    weights: Layout | None,
    leading: tuple[int, ...],
    summed_axes: tuple[int, ...],
    wanted: tuple[bool, ...],
    summed: tuple[bool, ...],
) -> _Pass:
    count, features = len(parameters), parameters[0].sizes[-1]
    shape = (*leading, features)
    gradients = (contiguous(p.sizes) if is_wanted else None for p, is_wanted in zip(parameters, wanted, strict=True))
    strides = [broadcast_strides(o, shape) for o in (*parameters, *gradients)]
    mask_strides = broadcast_strides(mask, shape)
    rows_of = [*(s[:-1] for s in strides), broadcast_strides(grad, leading), broadcast_strides(weights, leading)]
    rows_of.append(mask_strides[:-1])
    # If nothing is summed, all axes are walked like summed ones, so that a tile holds many rows.
    walked = summed_axes or tuple(range(len(leading)))
    kept, walk = (
        rows(tuple(leading[a] for a in part), tuple(tuple(s[a] for a in part) for s in rows_of))
        for part in ([a for a in range(len(leading)) if a not in walked], walked)
    )
    alignments = [alignment(*k, *w) for k, w in zip(kept.strides, walk.strides, strict=True)]

    block = block_of_features(features, parameters)
    steps = 1 if summed_axes else steps_of_blocks(density, features, block)
    blocks = max(triton.cdiv(features, steps * block), 1)
    tile = tile_rows(rows_of_tile(density, dtype.itemsize, steps * block), walk.count)
    splits = triton.cdiv(walk.count, tile)
    rows_a_split = tile
    if summed_axes:
        enough = triton.cdiv(ENOUGH_PROGRAMS, max(kept.count * blocks, 1))
        rows_a_split = max(triton.cdiv(walk.count, enough), min(ROWS_WORTH_A_SPLIT, walk.count), 1)
        rows_a_split = triton.cdiv(rows_a_split, tile) * tile
        splits = max(triton.cdiv(walk.count, rows_a_split), 1)  # a sum over no rows is zero, which must be written too
    of_parameters, of_gradients, of_leading = slice(count), slice(count, 2 * count), slice(2 * count, 2 * count + 2)
    return _Pass(
        wanted,
        summed,
        splits if summed_axes else 1,
        grid=(kept.count * splits * blocks,),
        numbers=(
            kept.count,
            walk.count,
            rows_a_split,
            splits,
            features,
            kept.inner_sizes,
            walk.inner_sizes,
            *(w.strides[part] for part in (of_parameters, of_gradients, of_leading) for w in (kept, walk)),
            kept.strides[-1],
            walk.strides[-1],
            tuple(s[-1] for s in strides[of_parameters]),
            mask_strides[-1],
        ),
        constants={
            "GRADIENTS": density.gradients,
            "NEUTRAL": density.neutral,
            "SUMMED": summed,
            "ACC": scalar(dtype),
            "ALIGNMENTS": tuple(alignments[of_parameters]),
            "GRADIENT_ALIGNMENTS": tuple(alignments[of_gradients]),
            "MASK_ALIGNMENT": alignments[-1],
            "FEATURE_ALIGNMENT": alignment(features),
            "ROWS": tile,
            "STEPS": steps,
            "BLOCK": block,
            **OPTIONS,
        },
    )


def _summed_axes(parameter: Layout, leading: tuple[int, ...]) -> tuple[int, ...]:
    """Return the leading axes over which a gradient is summed: those along which its parameter is broadcast."""
    own = (1,) * (len(leading) + 1 - len(parameter.sizes)) + parameter.sizes[:-1]
    return tuple(axis for axis, (has, size) in enumerate(zip(own, leading, strict=True)) if has != size)
