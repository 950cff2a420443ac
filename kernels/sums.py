"""Accurate sums, and products over an axis."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def kahan(total, error, term):
    """Return ``total`` plus ``term`` and its rounding error: a plain sum of thousands of terms loses digits (Kahan
    1965)."""
    corrected = term - error
    new_total = total + corrected
    new_error = (new_total - total) - corrected
    return new_total, tl.where(tl.abs(new_total) < float("inf"), new_error, 0.0)


@triton.jit
def over_rows(total, error):
    """Sum a tile of Kahan sums over its first axis, in double."""
    return tl.sum(total.to(tl.float64) - error.to(tl.float64), 0)


@triton.jit
def product(factors, axis: tl.constexpr):
    """Return the product over an axis."""
    return tl.reduce(factors, axis, _times)


@triton.jit
def _times(left, right):
    return left * right
