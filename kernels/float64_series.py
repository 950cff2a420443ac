"""Logarithms and the remainders of Stirling's formulas in float64, as in csrc/math/logarithm.h and stirling.h.

The numbers are those of the C++ code for float64 results, with every dtype.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def log_and_deviation(u, w):
    """Compute log(1 + u) and u - log(1 + u), where w = 1 + u is known too; near 0 by a series in u."""
    near = tl.abs(u) < 0.25
    z = tl.where(near, u, 0.0 * u)
    s = z / (z + 2.0)
    v = s * s
    p = v * 0.146164497305426 + 0.15331721596205322
    p = p * v + 0.18182889125421715
    p = p * v + 0.22222211134792256
    p = p * v + 0.28571428625975509
    p = p * v + 0.39999999999899504
    p = p * v + 0.66666666666666697
    deviation = s * (z - v * p)
    log = tl.where(near, z - deviation, tl.log(w))
    return log, tl.where(near, deviation, u - log)


@triton.jit
def stirling_remainder(y):
    """Compute log Gamma(z) - (z - 1/2) log z + z - log(2 pi) / 2, from y = 1 / z for z >= 3."""
    v = y * y
    p = v * -0.060672531561754672 + 0.046498798438668196
    p = p * v + -0.018431231262231966
    p = p * v + 0.0057260560617154597
    p = p * v + -0.0018887167228095631
    p = p * v + 0.00084097013309473312
    p = p * v + -0.0005952255253429815
    p = p * v + 0.00079365068849147855
    p = p * v + -0.0027777777774305001
    p = p * v + 0.083333333333333141
    return p * y


@triton.jit
def stirling_slope(y):
    """Compute (log z - y / 2 - digamma(z)) / y^2, from y = 1 / z for z >= 3."""
    v = y * y
    p = v * -0.89581618877025337 + 0.66819376835256588
    p = p * v + -0.2522791141573682
    p = p * v + 0.071865196583366377
    p = p * v + -0.020616765094993243
    p = p * v + 0.0075629699985039654
    p = p * v + -0.004166461892502485
    p = p * v + 0.0039682522607397384
    p = p * v + -0.0083333333277041102
    return p * v + 0.083333333333330219
