"""log Bernoulli(value; logits), summed over the last axis: v l - softplus(l), softplus(l) = max(l, 0) + log(1 + u) with
u = exp(-|l|). The factors 1 + u are multiplied, and one logarithm serves several."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from . import density
from .density import Density


@triton.jit
def accumulate(tiles, linear, factors):
    value, logits = tiles
    return linear + (value * logits - tl.maximum(logits, 0.0)), factors * (1.0 + tl.exp(-tl.abs(logits)))


@triton.jit
def gradients(tiles):
    value, logits = tiles
    u = tl.exp(-tl.abs(logits))
    sigmoid = tl.where(logits >= 0.0, 1.0, u) / (1.0 + u)
    return logits, value - sigmoid


# Neutral: a failure that is certain and that happened, log 1 = 0. Finite, so that nothing times it is NaN.
BERNOULLI = Density(accumulate, gradients, neutral=(0.0, -1e30), has_factors=True)


def bernoulli_log_prob(value: Tensor, logits: Tensor, mask: Tensor | None) -> Tensor:
    return density.log_prob(BERNOULLI, (value, logits), mask)


def bernoulli_log_prob_backward(
    grad: Tensor, value: Tensor, logits: Tensor, mask: Tensor | None, needs: list[bool]
) -> list[Tensor]:
    return density.log_prob_backward(BERNOULLI, grad, (value, logits), mask, needs)
