"""Columns of log-weights: their largest entry and the sum of their weights, in one pass over the samples, and the parts
of a call into which they are divided."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .elementary import exp
from .launch import Rows, alignment, broadcast_strides, layout, rows, tile_rows

TILE = 2048
"""Log-weights that a program holds at a time."""

COLUMNS, COLUMNS_OF_SMALL_CALLS, SMALL_CALL = 32, 8, 4096
"""Columns per program, adjacent in memory: enough to fill a memory transaction, or fewer in small calls, which would
otherwise have few programs; and the number of columns below which a call is small."""


@triton.jit
def load_samples(pointer, offset, stride, sample, samples, present, ACC: tl.constexpr):
    """Load a tile (samples, columns) of log-weights, -inf outside."""
    inside = (sample < samples)[:, None] & present[None, :]
    tile = tl.load(pointer + (offset[None, :] + sample.to(tl.int64)[:, None] * stride), inside, other=0.0).to(ACC)
    return tl.where(inside, tile, float("-inf"))


@triton.jit
def finite(number):
    """Return the shift of a column: its largest log-weight, or 0 if that is infinite or NaN."""
    return tl.where(tl.abs(number) < float("inf"), number, 0.0)


@triton.jit
def totals(
    pointer,
    offset,
    stride,
    samples,
    present,
    ACC: tl.constexpr,
    SAMPLES: tl.constexpr,
    COLUMNS: tl.constexpr,
    power=1.0,
):
    """Return the shift and the sum of exp(power (log_weight - shift)), in double, per column, in one pass that rescales
    the sum as the shift grows.

    A column of all -inf has the sum 0; NaN propagates.
    """
    largest = tl.full((COLUMNS,), float("-inf"), ACC)
    total = tl.zeros((COLUMNS,), tl.float64)
    for first in range(0, samples, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        tile = load_samples(pointer, offset, stride, sample, samples, present, ACC)
        largest, total = added(largest, total, tile, power)
    return finite(largest), total


@triton.jit
def added(largest, total, tile, power=1.0):
    """Return the largest log-weight, and the sum of weights relative to :func:`finite` of it, with those of a tile."""
    larger = tl.maximum(largest, tl.max(tile, 0))
    shift = finite(larger)
    rescaling = tl.exp((largest.to(tl.float64) - shift.to(tl.float64)) * power)
    return larger, total * rescaling + tl.sum(exp((tile - shift[None, :]) * power).to(tl.float64), 0)


@triton.jit
def normalizer(total):
    """Return the factor that normalizes weights of this total, or 0 if all weights are 0."""
    empty = total == 0.0
    return tl.where(empty, 0.0, 1.0 / tl.where(empty, 1.0, total))


@triton.jit
def log_mean(shift, total, samples):
    return tl.log(total) + shift.to(tl.float64) - tl.log(samples.to(tl.float64))


def columns_of(samples_first: Tensor, *others: Tensor) -> Rows:
    """Return the columns of (k, ...), with their offsets in it and in tensors of shape (...)."""
    sizes = tuple(samples_first.shape[1:])
    return rows(sizes, (samples_first.stride()[1:], *(broadcast_strides(layout(t), sizes) for t in others)))


def columns_alignment(walk: Rows, *samples_first: Tensor) -> int:
    """Return a power of two that divides the number of columns and the strides of the samples, for wide loads of
    adjacent columns.

    It is 1 for small calls, since each alignment is a separate compilation.
    """
    if walk.count < SMALL_CALL or walk.inner_sizes:
        return 1
    return alignment(walk.count, *(t.stride(0) for t in samples_first))


def columns_a_program(columns: int) -> int:
    return tile_rows(COLUMNS if columns >= SMALL_CALL else COLUMNS_OF_SMALL_CALLS, columns)
