"""log Bernoulli(value; hidden @ weight.T + bias), summed over the features. The logits are never stored: the kernel
computes them a tile at a time, on tensor cores. It may write the residuals value - sigmoid(logits) in their place, from
which two matrix products of torch make the gradients.

With R rows, D features and H columns of ``hidden``, the forward pass is a matrix product of 2 R D H operations. For
R = 51,200, D = 784 and H = 200 it is 16 GFLOP, and the residuals are 161 MB of float32. Padding 784 features to blocks
of 64 costs 6 %, to blocks of 16 nothing; padding 200 columns to blocks of 32 costs 12 %, to blocks of 16 4 %.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import accumulation_dtype
from .bernoulli_log_prob import accumulate, gradients
from .launch import (
    INTERPRETED,
    Layout,
    alignment,
    broadcast_strides,
    device_of,
    layout,
    leading_sizes,
    rows,
    scalar,
)
from .linear_tiles import (
    CERTAIN_LOGIT,
    FORWARD,
    load_observed,
    precision_of,
    products,
    tiling_of,
)
from .memory import multiple, row_offset, store
from .overlap import begin_kernel
from .sums import product

MOST_PROGRAMS = 4 if INTERPRETED else 8 * 132
"""Maximum number of programs. If rows alone give fewer programs, the sum over the features is split among several, up
to this limit: a few programs more than an H200's 132 multiprocessors run at a time would double the run time. The parts
are small, so the sum is split finely."""

VARYING = ["count", "blocks_a_split"]


@triton.jit(do_not_specialize=VARYING)
def log_prob_kernel(
    result,
    copy,
    residual,
    value,
    hidden,
    weight,
    bias,
    mask,
    count,
    blocks_a_split,
    features,
    width,
    inner_sizes,
    row_strides,
    column_strides,
    weight_strides,
    bias_stride,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    ALIGNMENTS: tl.constexpr,
    FEATURE_ALIGNMENT: tl.constexpr,
    WIDTH_ALIGNMENT: tl.constexpr,
    WEIGHT_ALIGNMENT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    INNER: tl.constexpr,
):
    """Write result[split, row] = the sum over the features of a split, also to ``copy``, and residual[row, feature],
    unless they are None; a program handles ROWS rows of one split."""
    begin_kernel()
    features = multiple(features, FEATURE_ALIGNMENT)
    width = multiple(width, WIDTH_ALIGNMENT)
    row_blocks = tl.cdiv(count, ROWS)
    split = tl.program_id(0) // row_blocks
    row = (tl.program_id(0) % row_blocks).to(count.dtype) * ROWS + tl.arange(0, ROWS)
    present = row < count
    value_offset = row_offset(row, inner_sizes, row_strides[0], ALIGNMENTS[0])[:, None]
    hidden_offset = row_offset(row, inner_sizes, row_strides[1], ALIGNMENTS[1])
    mask_offset = row_offset(row, inner_sizes, row_strides[2], ALIGNMENTS[2])[:, None]
    weight_stride = multiple(weight_strides[0], WEIGHT_ALIGNMENT)

    total = tl.zeros((ROWS,), tl.float64)
    stop = tl.minimum((split + 1) * blocks_a_split, tl.cdiv(features, BLOCK))
    for block in range(split * blocks_a_split, stop):
        feature = block * BLOCK + tl.arange(0, BLOCK)
        exists = feature < features
        inside = present[:, None] & exists[None, :]
        observed, counted = load_observed(
            value, mask, value_offset, mask_offset, feature[None, :], column_strides[0], column_strides[2], inside, ACC
        )
        logits = products(
            hidden,
            hidden_offset,
            column_strides[1],
            present,
            weight,
            feature.to(tl.int64) * weight_stride,
            weight_strides[1],
            exists,
            width,
            PRECISION,
            ACC,
            INNER,
        )
        if bias is not None:
            logits += tl.load(bias + feature * bias_stride, exists, other=0.0).to(ACC)[None, :]
        terms, factors = accumulate((observed, tl.where(counted, logits, CERTAIN_LOGIT)), 0.0, 1.0)
        # The factors of a block, each at most 2, share a logarithm: the product of 64 does not overflow. The sum over a
        # block is a tree reduction; the rest runs in double.
        total += tl.sum(terms, 1).to(tl.float64) - tl.log(product(factors, 1)).to(tl.float64)
        if residual is not None:
            slopes = gradients((observed, logits))[1]
            # NaN of a row is in its result; in the residuals it would reach the gradients whatever multiplies it.
            slopes = tl.where(counted & (slopes == slopes), slopes, 0.0)
            address = residual + (row.to(tl.int64)[:, None] * features + feature[None, :])
            store(address, slopes, inside)
    store(result + split.to(tl.int64) * count + row, total, present)
    if copy is not None:
        store(copy + row, total, present)


@triton.jit(do_not_specialize=["splits", "count"])
def sum_kernel(result, copy, parts, splits, count, BLOCK: tl.constexpr):
    """Write the sum of the splits, in order, also to ``copy`` unless it is None."""
    begin_kernel()
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    present = row < count
    total = tl.zeros((BLOCK,), tl.float64)
    for split in range(splits):
        total += tl.load(parts + split.to(tl.int64) * count + row, present, other=0.0)
    store(result + row, total, present)
    if copy is not None:
        store(copy + row, total, present)


def linear_bernoulli_log_prob(
    value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
) -> Tensor:
    return _launch(value, hidden, weight, bias, mask, None, None)


def linear_bernoulli_log_prob_and_residual(
    value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log-probability, value - sigmoid(logits) in the dtype of ``hidden``, which is 0 where masked or NaN,
    and the log-probability again."""
    leading = torch.broadcast_shapes(value.shape[:-1], hidden.shape[:-1])
    residual = hidden.new_empty((*leading, len(weight)))
    copy = hidden.new_empty(leading, dtype=accumulation_dtype(hidden))
    return _launch(value, hidden, weight, bias, mask, copy, residual), residual, copy


def _launch(
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    copy: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    operands = (value, hidden, weight, bias, mask)
    plan = _plan(hidden.dtype, precision_of(hidden.dtype), *map(layout, operands))
    result = hidden.new_empty(plan.leading, dtype=accumulation_dtype(hidden))
    with device_of(result) as options:
        if plan.splits == 1:
            log_prob_kernel[plan.grid](result, copy, residual, *operands, *plan.numbers, **plan.constants, **options)
            return result
        parts = result.new_empty((plan.splits, *plan.leading), dtype=torch.float64)
        log_prob_kernel[plan.grid](parts, None, residual, *operands, *plan.numbers, **plan.constants, **options)
        block, count = 2**16 if INTERPRETED else 256, result.numel()
        if count:
            sum_kernel[(triton.cdiv(count, block),)](result, copy, parts, plan.splits, count, BLOCK=block, **options)
    return result


class _Plan(NamedTuple):
    """The parameters of a launch except its tensors."""

    leading: tuple[int, ...]
    splits: int
    grid: tuple[int]
    numbers: tuple[Any, ...]
    """Arguments of the kernel from ``count`` on."""
    constants: dict[str, Any]


@lru_cache(maxsize=1024)
def _plan(
    dtype: torch.dtype,
    precision: str,
    value: Layout,
    hidden: Layout,
    weight: Layout,
    bias: Layout | None,
    mask: Layout | None,
) -> _Plan:
    leading = leading_sizes((value, hidden))
    features, width = weight.sizes
    strides = [broadcast_strides(o, (*leading, n)) for o, n in ((value, features), (hidden, width), (mask, features))]
    walk = rows(leading, tuple(s[:-1] for s in strides))
    tiling = tiling_of(FORWARD, dtype, precision)
    # One program per block of rows, with splits of the features up to the maximum number of programs.
    programs, blocks = triton.cdiv(walk.count, tiling.kept), triton.cdiv(features, tiling.walked)
    blocks_a_split = triton.cdiv(blocks, max(min(MOST_PROGRAMS // max(programs, 1), blocks), 1))
    splits = max(triton.cdiv(blocks, max(blocks_a_split, 1)), 1)  # a sum over no features is zero, which is written too
    return _Plan(
        leading,
        splits,
        (programs * splits,),
        numbers=(
            walk.count,
            blocks_a_split,
            features,
            width,
            walk.inner_sizes,
            walk.strides,
            tuple(s[-1] for s in strides),
            weight.strides,
            0 if bias is None else bias.strides[0],
        ),
        constants={
            "PRECISION": precision,
            "ACC": scalar(torch.float64 if dtype == torch.float64 else torch.float32),
            "ALIGNMENTS": tuple(alignment(*s) for s in walk.strides),
            "FEATURE_ALIGNMENT": alignment(features),
            "WIDTH_ALIGNMENT": alignment(width),
            "WEIGHT_ALIGNMENT": alignment(weight.strides[0]),
            "ROWS": tiling.kept,
            "BLOCK": tiling.walked,
            "INNER": tiling.inner,
            **tiling.options,
            "enable_fp_fusion": True,
        },
    )
