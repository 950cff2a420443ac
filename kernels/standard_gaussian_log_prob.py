"""log N(value; 0, 1), summed over the last axis: -v^2 / 2 - log(2 pi) / 2."""

from __future__ import annotations

import triton
import triton.language as tl  # noqa: F401  (the interpreter needs it in every file of kernels)

from .density import Density
from .gaussian_log_prob import HALF_LOG_2PI


@triton.jit
def accumulate(tiles, linear, factors):
    return linear - 0.5 * tiles[0] * tiles[0], factors


@triton.jit
def gradients(tiles):
    return (-tiles[0],)


STANDARD_GAUSSIAN = Density(accumulate, gradients, neutral=(0.0,), constant=-HALF_LOG_2PI)
