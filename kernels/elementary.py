"""Exponential and reciprocal by the GPU's own float32 instructions, without special cases that kernels rule out.

An H200 can execute about 27 instructions in the time in which its memory delivers one float32; kernels with more are
limited by instructions. Float64 uses the library's functions.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .launch import INTERPRETED

PORTABLE = tl.constexpr(INTERPRETED)
"""True in the interpreter, which does not support inline assembly."""


@triton.jit
def exp2_float32(x):
    """Compute 2^x to 2 units in the last place; results that would be subnormal are 0."""
    return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def exp(x):
    """Compute exp(x) with a relative error that grows as |x| 2^-24: for x <= 0, as small results need not be exact."""
    if PORTABLE or x.dtype == tl.float64:
        return tl.exp(x)
    else:
        return exp2_float32(x * 1.4426950408889634)


@triton.jit
def exp_of_minus_abs(x):
    """Compute exp(-|x|), with the sign and the absolute value at no cost."""
    if PORTABLE or x.dtype == tl.float64:
        return tl.exp(-tl.abs(x))
    else:
        return tl.inline_asm_elementwise(
            "{ .reg .f32 t; abs.f32 t, $1; neg.f32 t, t; ex2.approx.ftz.f32 $0, t; }",
            "=f,f",
            [x * 1.4426950408889634],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )


@triton.jit
def exact_exp(x):
    """Compute exp(x) without that growth of the error: the rounding of the product with log2(e) is compensated for."""
    if PORTABLE or x.dtype == tl.float64:
        return tl.exp(x)
    else:
        rounded = x * 1.44269504088896
        lost = tl.fma(x, tl.full(x.shape, 1.44269504088896, tl.float32), -rounded) + x * 1.925963033500e-8
        power = exp2_float32(rounded)
        # If the result is 0 or infinite it needs no correction, and inf - inf would be NaN.
        return tl.where((power > 0.0) & (power < float("inf")), power + power * (lost * 0.6931471805599453), power)


@triton.jit
def exp_factors(x):
    """Compute exp(x) as two finite factors; a number is to be multiplied by the first factor, then by the second.

    The product is at most e^148, in float64 e^1200, which is enough that the square of any nonzero difference of two
    numbers times it overflows.
    """
    if x.dtype == tl.float64:
        far = x > 500.0
        near = tl.minimum(tl.where(far, x - 500.0, x), 700.0, propagate_nan=tl.PropagateNan.ALL)
        second = tl.where(far, tl.full(x.shape, 1.4035922178528374e217, tl.float64), 1.0)
    else:
        far = x > 60.0
        near = tl.minimum(tl.where(far, x - 60.0, x), 88.0, propagate_nan=tl.PropagateNan.ALL)
        second = tl.where(far, 1.1420073898156842e26, 1.0)
    return exact_exp(near), second


@triton.jit
def reciprocal(x):
    """Compute 1 / x to 1 unit in the last place, for x that is neither subnormal nor beyond 2^126."""
    if PORTABLE or x.dtype == tl.float64:
        return 1.0 / x
    else:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
