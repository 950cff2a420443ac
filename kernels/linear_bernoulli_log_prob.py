"""log Bernoulli(value; hidden @ weight.T + bias), summed over the features, and its gradients. The logits are never
stored: each kernel computes them a tile at a time, on tensor cores.

With R rows, D features and H columns of ``hidden``, the forward pass is a matrix product of 2 R D H operations, and
each of two gradients repeats it before a product of its own: five products, compared to three with stored logits. For
R = 51,200, D = 784 and H = 200 each is 16 GFLOP, and the logits would be 161 MB of float32. Padding 784 features to
blocks of 64 costs 6 %, to blocks of 16 nothing; padding 200 columns to blocks of 32 costs 12 %, to blocks of 16 4 %,
and to the 256 columns of a gradient's sums 28 %.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    power_of_two,
    rows,
    scalar,
)
from .linear_tiles import (
    CERTAIN_LOGIT,
    COLUMNS,
    FORWARD,
    HIDDEN_GRADIENT,
    WEIGHT_GRADIENT,
    Tiling,
    add_product,
    load_block,
    load_observed,
    precision_of,
    products,
    tiling_of,
)
from .memory import multiple, row_offset, store
from .sums import product

FORWARD_PROGRAMS, GRADIENT_PROGRAMS = (4, 4) if INTERPRETED else (8 * 132, 2 * 132)
"""Maximum numbers of programs. If rows (or features) alone give fewer programs, the sum over the other axis is split
among several, up to this limit: a few programs more than an H200's 132 multiprocessors run at a time would double the
run time. The forward pass's parts are small, so it is split finely; a gradient needs one copy per split."""

VARYING = ["count", "blocks_a_split"]


@triton.jit(do_not_specialize=VARYING)
def log_prob_kernel(
    result,
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
    """Write result[split, row] = the sum over the features of a split; a program handles ROWS rows of one split."""
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
    store(result + split.to(tl.int64) * count + row, total, present)


@triton.jit(do_not_specialize=VARYING)
def hidden_gradient_kernel(
    gradient,
    grad,
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
    COLUMNS: tl.constexpr,
):
    """Write gradient[split, row] = grad[row] times the sum over a split's features of (value - sigmoid(logit))
    weight[feature].

    A program handles ROWS rows, COLUMNS columns and one split.
    """
    features = multiple(features, FEATURE_ALIGNMENT)
    width = multiple(width, WIDTH_ALIGNMENT)
    row_blocks = tl.cdiv(count, ROWS)
    parts = tl.maximum(tl.cdiv(width, COLUMNS), 1)
    part = tl.program_id(0) % parts
    split = tl.program_id(0) // parts // row_blocks
    row = (tl.program_id(0) // parts % row_blocks).to(count.dtype) * ROWS + tl.arange(0, ROWS)
    present = row < count
    column = part * COLUMNS + tl.arange(0, COLUMNS)
    value_offset = row_offset(row, inner_sizes, row_strides[0], ALIGNMENTS[0])[:, None]
    hidden_offset = row_offset(row, inner_sizes, row_strides[1], ALIGNMENTS[1])
    mask_offset = row_offset(row, inner_sizes, row_strides[2], ALIGNMENTS[2])[:, None]
    weight_stride = multiple(weight_strides[0], WEIGHT_ALIGNMENT)

    total = tl.zeros((ROWS, COLUMNS), ACC)
    stop = tl.minimum((split + 1) * blocks_a_split, tl.cdiv(features, BLOCK))
    for block in range(split * blocks_a_split, stop):
        feature = block * BLOCK + tl.arange(0, BLOCK)
        exists = feature < features
        inside = present[:, None] & exists[None, :]
        weight_offset = feature.to(tl.int64) * weight_stride
        observed, counted = load_observed(
            value, mask, value_offset, mask_offset, feature[None, :], column_strides[0], column_strides[2], inside, ACC
        )
        logits = products(
            hidden,
            hidden_offset,
            column_strides[1],
            present,
            weight,
            weight_offset,
            weight_strides[1],
            exists,
            width,
            PRECISION,
            ACC,
            INNER,
        )
        if bias is not None:
            logits += tl.load(bias + feature * bias_stride, exists, other=0.0).to(ACC)[None, :]
        slopes = tl.where(counted, gradients((observed, logits))[1], 0.0).to(weight.dtype.element_ty)
        weight_block = load_block(weight, weight_offset, column, weight_strides[1], exists, width)
        total = add_product(total, slopes, weight_block, PRECISION)

    coefficient = tl.load(grad + row_offset(row, inner_sizes, row_strides[3], 1), present, other=0.0).to(ACC)[:, None]
    # The slopes are at most 1, and the coefficient multiplies their sum: small coefficients do not underflow in half
    # precision. A coefficient of zero must give zero, also if the logits overflow.
    total = tl.where(coefficient != 0.0, coefficient * total, 0.0)
    address = gradient + (split.to(tl.int64) * count + row)[:, None] * width + column[None, :]
    store(address, total, present[:, None] & (column < width)[None, :])


@triton.jit(do_not_specialize=VARYING)
def weight_gradient_kernel(
    weight_gradient,
    bias_gradient,
    grad,
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
    FEATURES: tl.constexpr,
    BLOCK: tl.constexpr,
    INNER: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write weight_gradient[split, feature] = the sum over a split's rows of grad[row] (value - sigmoid(logit))
    hidden[row], and bias_gradient[split, feature] = the same without the last factor; either may be None.

    A program handles FEATURES features, COLUMNS columns and one split. Programs of the same rows have adjacent ids, so
    that these rows are read from memory once. Tiles are transposed, with rows along the second axis, so that the result
    of one product is the left operand of the next.
    """
    features = multiple(features, FEATURE_ALIGNMENT)
    width = multiple(width, WIDTH_ALIGNMENT)
    feature_blocks = tl.cdiv(features, FEATURES)
    parts = tl.maximum(tl.cdiv(width, COLUMNS), 1)
    part = tl.program_id(0) % parts
    split = (tl.program_id(0) // parts // feature_blocks).to(count.dtype)
    feature = (tl.program_id(0) // parts % feature_blocks) * FEATURES + tl.arange(0, FEATURES)
    exists = feature < features
    column = part * COLUMNS + tl.arange(0, COLUMNS)
    weight_offset = feature.to(tl.int64) * multiple(weight_strides[0], WEIGHT_ALIGNMENT)
    if bias is not None:
        shift = tl.load(bias + feature * bias_stride, exists, other=0.0).to(ACC)[:, None]

    total = tl.zeros((FEATURES, COLUMNS), ACC)
    slopes_total = tl.zeros((FEATURES,), tl.float64)
    stop = tl.minimum((split + 1) * blocks_a_split, tl.cdiv(count, BLOCK))
    for block in range(split * blocks_a_split, stop):
        row = block * BLOCK + tl.arange(0, BLOCK)
        present = row < count
        coefficient = tl.load(grad + row_offset(row, inner_sizes, row_strides[3], 1), present, other=0.0).to(ACC)
        # A coefficient of zero must give zero, whatever the row holds: 0 * NaN would be NaN.
        present = present & (coefficient != 0.0)
        value_offset = row_offset(row, inner_sizes, row_strides[0], ALIGNMENTS[0])[None, :]
        hidden_offset = row_offset(row, inner_sizes, row_strides[1], ALIGNMENTS[1])
        mask_offset = row_offset(row, inner_sizes, row_strides[2], ALIGNMENTS[2])[None, :]
        inside = exists[:, None] & present[None, :]
        observed, counted = load_observed(
            value, mask, value_offset, mask_offset, feature[:, None], column_strides[0], column_strides[2], inside, ACC
        )
        logits = products(
            weight,
            weight_offset,
            weight_strides[1],
            exists,
            hidden,
            hidden_offset,
            column_strides[1],
            present,
            width,
            PRECISION,
            ACC,
            INNER,
        )
        if bias is not None:
            logits += shift
        slopes = tl.where(counted, coefficient[None, :] * gradients((observed, logits))[1], 0.0)
        if bias_gradient is not None:
            slopes_total += tl.sum(slopes, 1).to(tl.float64)
        if weight_gradient is not None:
            hidden_block = load_block(hidden, hidden_offset, column, column_strides[1], present, width)
            total = add_product(total, slopes.to(weight.dtype.element_ty), hidden_block, PRECISION)

    row_of_result = split.to(tl.int64) * features + feature
    if weight_gradient is not None:
        address = weight_gradient + row_of_result[:, None] * width + column[None, :]
        store(address, total, exists[:, None] & (column < width)[None, :])
    if bias_gradient is not None:
        if part == 0:
            store(bias_gradient + row_of_result, slopes_total, exists)


def linear_bernoulli_log_prob(
    value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
) -> Tensor:
    plan = _plan(hidden.dtype, precision_of(hidden.dtype), *map(layout, (value, hidden, weight, bias, mask, None)))
    splits, grid, numbers, constants = plan.forward
    dtype = accumulation_dtype(hidden)
    # Without splits the result must not be a view of a larger tensor: a user may change it in place.
    shape = plan.leading if splits == 1 else (splits, *plan.leading)
    result = hidden.new_empty(shape, dtype=torch.float64 if splits > 1 else dtype)
    with device_of(result):
        log_prob_kernel[grid](result, value, hidden, weight, bias, mask, *numbers, **constants)
    return result if splits == 1 else _added(result, dtype)


def linear_bernoulli_log_prob_backward(
    grad: Tensor,
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    needs_grad: Sequence[bool],
) -> list[Tensor]:
    """Return the needed gradients of hidden, weight and bias."""
    hidden_needed, weight_needed, bias_needed = needs_grad
    found = []
    operands = (value, hidden, weight, bias, mask)
    plan = _plan(hidden.dtype, precision_of(hidden.dtype), *map(layout, (*operands, grad)))
    dtype = accumulation_dtype(hidden)
    with device_of(grad):
        if hidden_needed:
            splits, grid, numbers, constants = plan.hidden
            summed = splits > 1 or hidden.shape[:-1] != plan.leading
            gradient = hidden.new_empty(
                (splits, *plan.leading, hidden.shape[-1]), dtype=dtype if summed else hidden.dtype
            )
            hidden_gradient_kernel[grid](gradient, grad, *operands, *numbers, **constants)
            found.append(_added(gradient, gradient.dtype).sum_to_size(hidden.shape).to(hidden.dtype))
        if weight_needed or bias_needed:
            splits, grid, numbers, constants = plan.weight
            # One copy of the weight's size per split, in the accumulation dtype.
            weight_gradient = weight.new_empty((splits, *weight.shape), dtype=dtype) if weight_needed else None
            bias_gradient = weight.new_empty((splits, len(weight)), dtype=torch.float64) if bias_needed else None
            weight_gradient_kernel[grid](weight_gradient, bias_gradient, grad, *operands, *numbers, **constants)
            found += [_added(g, weight.dtype) for g in (weight_gradient, bias_gradient) if g is not None]
    return found


def _added(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum over the first axis, of splits, in double and in order."""
    return parts[0].to(dtype) if len(parts) == 1 else parts.sum(0, dtype=torch.float64).to(dtype)


class _Launch(NamedTuple):
    """The parameters of a launch except its tensors."""

    splits: int
    grid: tuple[int]
    numbers: tuple[Any, ...]
    """Arguments of the kernels from ``count`` on."""
    constants: dict[str, Any]


class _Plan(NamedTuple):
    leading: tuple[int, ...]
    forward: _Launch
    hidden: _Launch
    weight: _Launch


@lru_cache(maxsize=1024)
def _plan(
    dtype: torch.dtype,
    precision: str,
    value: Layout,
    hidden: Layout,
    weight: Layout,
    bias: Layout | None,
    mask: Layout | None,
    grad: Layout | None,
) -> _Plan:
    leading = leading_sizes((value, hidden))
    features, width = weight.sizes
    *strides, mask_strides = (
        broadcast_strides(o, (*leading, size)) for o, size in ((value, features), (hidden, width), (mask, features))
    )
    of_rows = (*(s[:-1] for s in (*strides, mask_strides)), broadcast_strides(grad, leading))
    walk = rows(leading, of_rows)
    numbers = (
        features,
        width,
        walk.inner_sizes,
        walk.strides,
        (*(s[-1] for s in strides), mask_strides[-1]),
        weight.strides,
        0 if bias is None else bias.strides[0],
    )
    constants = {
        "PRECISION": precision,
        "ACC": scalar(torch.float64 if dtype == torch.float64 else torch.float32),
        "ALIGNMENTS": tuple(alignment(*s) for s in walk.strides[:3]),
        "FEATURE_ALIGNMENT": alignment(features),
        "WIDTH_ALIGNMENT": alignment(width),
        "WEIGHT_ALIGNMENT": alignment(weight.strides[0]),
    }
    columns = {"COLUMNS": min(max(power_of_two(width), 16), COLUMNS)}
    parts = max(triton.cdiv(width, COLUMNS), 1)

    def launch(enough: int, tiling: Tiling, kept: int, walked: int, name: str, parts: int, **more: int) -> _Launch:
        """Return a launch of one program per block of the kept axis, with splits of the walked axis up to ``enough``
        programs."""
        programs = triton.cdiv(kept, tiling.kept) * parts
        blocks = triton.cdiv(walked, tiling.walked)
        splits = max(min(enough // max(programs, 1), blocks), 1)
        blocks_a_split = triton.cdiv(blocks, splits)
        splits = max(
            triton.cdiv(blocks, max(blocks_a_split, 1)), 1
        )  # a sum over no rows is zero, which must be written too
        sizes = {name: tiling.kept, "BLOCK": tiling.walked, "INNER": tiling.inner}
        options = {**constants, **sizes, **more, **tiling.options, "enable_fp_fusion": True}
        return _Launch(splits, (programs * splits,), (walk.count, blocks_a_split, *numbers), options)

    forward, of_hidden, of_weight = (
        tiling_of(tilings, dtype, precision) for tilings in (FORWARD, HIDDEN_GRADIENT, WEIGHT_GRADIENT)
    )
    return _Plan(
        leading,
        forward=launch(FORWARD_PROGRAMS, forward, walk.count, features, "ROWS", 1),
        hidden=launch(GRADIENT_PROGRAMS, of_hidden, walk.count, features, "ROWS", parts, **columns),
        weight=launch(GRADIENT_PROGRAMS, of_weight, features, walk.count, "FEATURES", parts, **columns),
    )
