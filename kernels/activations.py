"""Activations of dense layers and their derivatives, by name."""

from __future__ import annotations

import triton
import triton.language as tl

from .elementary import exp, exp_of_minus_abs, reciprocal


@triton.jit
def tanh(x):
    """Compute tanh(x) with a relative error of a few roundings, near 0 too: by a polynomial or a rational function
    below 0.625 (Moshier's Cephes library), by 1 - 2 / (exp(2 |x|) + 1) above."""
    size = tl.abs(x)
    square = x * x
    if x.dtype == tl.float64:
        top = (-9.64399179425052238628e-1 * square - 9.92877231001918586564e1) * square - 1.61468768441708447952e3
        bottom = ((square + 1.12811678491632931402e2) * square + 2.23548839060100448583e3) * square
        slope = top / (bottom + 4.84406305325125486048e3)
    else:
        slope = (-5.70498872745e-3 * square + 2.06390887954e-2) * square - 5.37397155531e-2
        slope = (slope * square + 1.33314422036e-1) * square - 3.33332819422e-1
    large = 1.0 - 2.0 * reciprocal(exp(size + size) + 1.0)
    return tl.where(size < 0.625, x + x * square * slope, tl.where(x < 0.0, -large, large))


@triton.jit
def sigmoid(x):
    small = exp_of_minus_abs(x)
    inverse = reciprocal(1.0 + small)
    return tl.where(x < 0.0, small * inverse, inverse)


@triton.jit
def normal_cdf(x):
    return 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)


@triton.jit
def activated(x, ACTIVATION: tl.constexpr):
    """Return the activation of x; NaN is never hidden."""
    if ACTIVATION == "tanh":
        return tanh(x)
    elif ACTIVATION == "relu":
        return tl.where(x <= 0.0, 0.0, x)
    elif ACTIVATION == "gelu":
        return x * normal_cdf(x)
    elif ACTIVATION == "silu":
        return x * sigmoid(x)
    else:
        return x


@triton.jit
def derivative(kept, ACTIVATION: tl.constexpr):
    """Return the derivative of an activation from what is kept of the forward pass: its input for gelu and silu, its
    output for tanh and relu."""
    if ACTIVATION == "tanh":
        return 1.0 - kept * kept
    elif ACTIVATION == "relu":
        return tl.where(kept <= 0.0, 0.0, 1.0)
    elif ACTIVATION == "gelu":
        return normal_cdf(kept) + kept * exp(-0.5 * kept * kept) * 0.3989422804014327
    else:
        share = sigmoid(kept)
        return share * (1.0 + kept * (1.0 - share))
