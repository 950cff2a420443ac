"""The sum of a density over its features, in one launch."""

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
    OPTIONS,
    Layout,
    alignment,
    broadcast_strides,
    device_of,
    layout,
    leading_sizes,
    rows,
    scalar,
    tile_rows,
)
from .memory import multiple, row_offset, row_offsets, store
from .overlap import begin_kernel


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
    mask_strides,
    addend_strides,
    feature_strides,
    mask_feature_stride,
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
    """Write result[row] = sum over features, plus addend[row] if given; a program handles ROWS rows."""
    begin_kernel()
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
        # Only the STEPS additions and a tree reduction run in the accumulation dtype; the rest runs in double.
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


def log_prob(
    density: Density, parameters: Sequence[Tensor], mask: Tensor | None, addend: Tensor | None = None
) -> Tensor:
    """Return log-densities of the leading shape; if ``addend`` is given, in its shape and with it added."""
    dtype = accumulation_dtype(*parameters) if addend is None else accumulation_dtype(*parameters, addend)
    plan = _plan(density, dtype, tuple(map(layout, parameters)), layout(mask), layout(addend))
    result = parameters[0].new_empty(plan.leading, dtype=dtype)
    with device_of(result) as options:
        log_prob_kernel[plan.grid](result, addend, tuple(parameters), mask, *plan.numbers, **plan.constants, **options)
    return result


class _Plan(NamedTuple):
    """The parameters of a launch except its tensors."""

    leading: tuple[int, ...]
    grid: tuple[int]
    numbers: tuple[Any, ...]
    """Arguments of the kernel from ``count`` on."""
    constants: dict[str, Any]


@lru_cache(maxsize=1024)
def _plan(
    density: Density, dtype: torch.dtype, parameters: tuple[Layout, ...], mask: Layout | None, addend: Layout | None
) -> _Plan:
    leading = leading_sizes(parameters) if addend is None else addend.sizes
    features = parameters[0].sizes[-1]
    shape = (*leading, features)
    *strides, mask_strides = (broadcast_strides(o, shape) for o in (*parameters, mask))
    walk = rows(leading, (*(s[:-1] for s in (*strides, mask_strides)), broadcast_strides(addend, leading)))
    *row_strides, mask_row_strides, addend_strides = walk.strides
    block = block_of_features(features, parameters)
    steps = steps_of_blocks(density, features, block)
    rows_a_program = tile_rows(rows_of_tile(density, dtype.itemsize, steps * block), walk.count)
    return _Plan(
        leading,
        grid=(triton.cdiv(walk.count, rows_a_program),),
        numbers=(
            walk.count,
            features,
            walk.inner_sizes,
            tuple(row_strides),
            mask_row_strides,
            addend_strides,
            tuple(s[-1] for s in strides),
            mask_strides[-1],
        ),
        constants={
            "ACCUMULATE": density.accumulate,
            "NEUTRAL": density.neutral,
            "CONSTANT": density.constant,
            "HAS_FACTORS": density.has_factors,
            "ACC": scalar(dtype),
            "ALIGNMENTS": tuple(alignment(*s) for s in row_strides),
            "MASK_ALIGNMENT": alignment(*mask_row_strides),
            "FEATURE_ALIGNMENT": alignment(features),
            "ROWS": rows_a_program,
            "STEPS": steps,
            "BLOCK": block,
            **OPTIONS,
        },
    )
