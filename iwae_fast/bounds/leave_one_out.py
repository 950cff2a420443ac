"""What the weights of the other samples sum to.

1 - w~ has no digits where a weight is near 1. Only one can be, so it is treated apart: what it leaves is the sum of the
others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..ops.weights import log_mean_exp


def log_sum_exp(log_weights: Tensor) -> Tensor:
    return log_mean_exp(log_weights) + math.log(len(log_weights))


def largest_of(log_weights: Tensor) -> Tensor:
    """True at one largest entry of each column."""
    return torch.zeros_like(log_weights, dtype=torch.bool).scatter_(0, log_weights.argmax(0, keepdim=True), True)


def log_rest(log_weights: Tensor) -> Tensor:
    """log(1 - w~_i): of the largest by the sum of the others, since 1 - w~ has no digits where w~ is near 1."""
    largest = largest_of(log_weights)
    total = log_sum_exp(log_weights)
    rest = log_sum_exp(torch.where(largest, -math.inf, log_weights)) - total
    others = torch.exp(torch.where(largest, -math.inf, log_weights) - total)  # each at most 1/2
    return torch.where(largest, rest, torch.log1p(-others))
