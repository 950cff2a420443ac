"""log Bernoulli(value; logits), summed over the last axis: v l - softplus(l), softplus(l) = max(l, 0) + log(1 + u) with
u = exp(-|l|). The factors 1 + u are multiplied, so that several share one logarithm."""

from __future__ import annotations

import triton
import triton.language as tl

from .density import Density
from .elementary import exp_of_minus_abs, reciprocal


@triton.jit
def accumulate(tiles, linear, factors):
    value, logits = tiles
    u = exp_of_minus_abs(logits)
    return linear + value * logits - tl.maximum(logits, 0.0), factors + factors * u


@triton.jit
def gradients(tiles):
    value, logits = tiles
    u = exp_of_minus_abs(logits)
    sigmoid = tl.where(logits >= 0.0, 1.0, u) * reciprocal(1.0 + u)
    return logits, value - sigmoid


# Neutral: value 0 with logit -32768 has log-probability 0. Both are finite in every dtype, so that no product is NaN.
BERNOULLI = Density(accumulate, gradients, neutral=(0.0, -32768.0), has_factors=True)
