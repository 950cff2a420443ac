"""Sums over all samples but one, accurate when one weight dominates.

1 - w~ loses all significant digits where a normalized weight is near 1. That can happen to one weight only, so the
largest is handled separately: for it, 1 - w~ is computed as the sum of the others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..ops.weights import log_mean_exp


def log_sum_exp(log_weights: Tensor) -> Tensor:
    """Compute the log of the sum of the weights over the samples, shape (...)."""
    return log_mean_exp(log_weights) + math.log(len(log_weights))


def largest_of(log_weights: Tensor) -> Tensor:
    """Return a mask that is True at exactly one largest entry of each column."""
    return torch.zeros_like(log_weights, dtype=torch.bool).scatter_(0, log_weights.argmax(0, keepdim=True), True)


def log_rest(log_weights: Tensor) -> Tensor:
    """Compute log(1 - w~_i), shape (k, ...); for the largest weight from the sum of the others."""
    largest = largest_of(log_weights)
    total = log_sum_exp(log_weights)
    rest = log_sum_exp(torch.where(largest, -math.inf, log_weights)) - total
    others = torch.exp(torch.where(largest, -math.inf, log_weights) - total)  # each at most 1/2
    return torch.where(largest, rest, torch.log1p(-others))
