"""Columns of log-weights: their largest entry and the sum of their weights, in one pass over the samples."""

from __future__ import annotations

import triton
import triton.language as tl

from .elementary import exp


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
def totals(pointer, offset, stride, samples, present, ACC: tl.constexpr, SAMPLES: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the shift and the sum of exp(log_weight - shift), in double, per column, in one pass that rescales the sum
    as the shift grows.

    A column of all -inf has the sum 0; NaN propagates.
    """
    largest = tl.full((COLUMNS,), float("-inf"), ACC)
    total = tl.zeros((COLUMNS,), tl.float64)
    for first in range(0, samples, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        tile = load_samples(pointer, offset, stride, sample, samples, present, ACC)
        larger = tl.maximum(largest, tl.max(tile, 0))
        shift = finite(larger)
        rescaling = tl.exp(largest.to(tl.float64) - shift.to(tl.float64))
        total = total * rescaling + tl.sum(exp(tile - shift[None, :]).to(tl.float64), 0)
        largest = larger
    return finite(largest), total


@triton.jit
def normalizer(total):
    """Return the factor that normalizes weights of this total, or 0 if all weights are 0."""
    empty = total == 0.0
    return tl.where(empty, 0.0, 1.0 / tl.where(empty, 1.0, total))


@triton.jit
def log_mean(shift, total, samples):
    return tl.log(total) + shift.to(tl.float64) - tl.log(samples.to(tl.float64))
