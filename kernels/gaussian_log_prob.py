"""log N(value; mean, exp(log_std)^2), summed over the last axis.

-(t^2 / 2 + log s) - log(2 pi) / 2 with t = (v - m) / s. 1 / s is applied as two factors, neither of which overflows, so
that v = m gives t = 0 at every scale; 0 * inf would be NaN.
"""

from __future__ import annotations

import triton
import triton.language as tl  # noqa: F401  (the interpreter needs it in every file of kernels)

from .density import Density
from .elementary import exp_factors

HALF_LOG_2PI = 0.91893853320467274178


@triton.jit
def accumulate(tiles, linear, factors):
    first, second = exp_factors(-tiles[2])
    standardized = (tiles[0] - tiles[1]) * first * second
    return linear - (0.5 * standardized * standardized + tiles[2]), factors


@triton.jit
def gradients(tiles):
    first, second = exp_factors(-tiles[2])
    standardized = (tiles[0] - tiles[1]) * first * second
    slope = standardized * first * second
    return -slope, slope, standardized * standardized - 1.0


GAUSSIAN = Density(accumulate, gradients, neutral=(0.0, 0.0, 0.0), constant=-HALF_LOG_2PI)
