"""Shared parts of the kernels of a linear layer and its likelihood: tensor-core products, tiles of logits, tilings."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .bernoulli_log_prob import BERNOULLI
from .elementary import PORTABLE
from .launch import INTERPRETED

CERTAIN_VALUE, CERTAIN_LOGIT = map(tl.constexpr, BERNOULLI.neutral)


@triton.jit
def add_product(total, left, right, PRECISION: tl.constexpr):
    """Return total + left @ right, computed on tensor cores; of tiles, or of one tile per part of a sum.

    Tensor cores truncate sums instead of rounding them. With tf32x3 that would be the largest error (Ootomo & Yokota
    2022), so such sums are computed outside: a ``where`` that the compiler cannot remove separates product and sum.
    """
    if PORTABLE and left.dtype.primitive_bitwidth == 16:  # the interpreter stores bfloat16 as integers
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    if PRECISION == "tf32x3":
        product = tl.dot(left, right, input_precision=PRECISION)
        index = tl.arange(0, left.shape[0])
        return total + tl.where((index[:, None] if len(left.shape) == 2 else index[:, None, None]) >= 0, product, 0.0)
    else:
        return tl.dot(left, right, total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def load_block(pointer, offset, column, stride, inside, width):
    """Load the given columns of rows of a matrix at these offsets, 0 outside."""
    return tl.load(
        pointer + (offset[:, None] + column[None, :] * stride),
        inside[:, None] & (column < width)[None, :],
        other=0.0,
    )


@triton.jit
def products(
    left,
    left_offset,
    left_stride,
    left_inside,
    right,
    right_offset,
    right_stride,
    right_inside,
    width,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Return the inner products of each row of ``left`` with each row of ``right``, of length ``width``."""
    total = tl.zeros((left_offset.shape[0], right_offset.shape[0]), ACC)
    for first in range(0, width, BLOCK):
        column = first + tl.arange(0, BLOCK)
        left_block = load_block(left, left_offset, column, left_stride, left_inside, width)
        right_block = load_block(right, right_offset, column, right_stride, right_inside, width)
        total = add_product(total, left_block, tl.trans(right_block), PRECISION)
    return total


@triton.jit
def load_observed(
    value, mask, value_offset, mask_offset, feature, value_stride, mask_stride, inside, ACC: tl.constexpr
):
    """Load a tile of observations and return it with a mask of those that count.

    Rows may be along either axis, depending on the shapes of offsets and features.
    """
    counted = inside
    if mask is not None:
        counted = inside & (tl.load(mask + (mask_offset + feature * mask_stride), inside, other=0) != 0)
    tile = tl.load(value + (value_offset + feature * value_stride), inside, other=0.0).to(ACC)
    return tl.where(counted, tile, CERTAIN_VALUE), counted


class Tiling(NamedTuple):
    """Tile sizes of the logits that a program computes at a time: ``kept`` along the axis of its result, ``walked``
    along the other axis, ``inner`` columns of ``hidden`` per step of the products."""

    kept: int
    walked: int
    inner: int
    num_warps: int
    num_stages: int

    @property
    def options(self) -> dict[str, int]:
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}


# Chosen with tests/support/triton_resources.py for sm_80 and sm_90: no register is spilled, and at most 74 KB of shared
# memory (of 163 on sm_80) are used. Tile sizes are limited by operands in registers, two per operand with tf32x3.
FORWARD = {
    "half": Tiling(64, 64, 64, num_warps=4, num_stages=3),
    "tf32": Tiling(128, 64, 32, num_warps=8, num_stages=3),
    "tf32x3": Tiling(128, 64, 16, num_warps=8, num_stages=3),
}
if INTERPRETED:  # few, large programs; and float64, which most tests use
    FORWARD = dict.fromkeys((*FORWARD, "ieee"), Tiling(64, 64, 64, num_warps=4, num_stages=1))


def precision_of(dtype: torch.dtype) -> str:
    """Return Triton's input precision for products of this dtype.

    For float32 it follows torch's setting (``torch.backends.cuda.matmul``, ``torch.set_float32_matmul_precision``): one
    product in TF32, or three that preserve the digits of float32.
    """
    if dtype != torch.float32:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"


def tiling_of(tilings: dict[str, Tiling], dtype: torch.dtype, precision: str) -> Tiling:
    return tilings["half" if dtype.itemsize == 2 else precision]
