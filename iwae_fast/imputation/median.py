"""The weighted median of draws."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_median(values: Tensor, log_weights: Tensor) -> Tensor:
    """Return the smallest value at which the cumulative weight reaches one half.

    Args:
        values: (k, B, D).
        log_weights: (k, B) in nats, of any normalization.

    Returns:
        (B, D) in the dtype of ``values``; NaN where all weights are zero.
    """
    weights = torch.softmax(log_weights.double(), 0)
    ordered, index = values.sort(0)
    cumulative = weights.unsqueeze(-1).expand_as(values).gather(0, index).cumsum(0)
    # Rounding may leave the sum of all weights just below one, but not below one half.
    first = (cumulative >= 0.5 - 1e-12).to(torch.uint8).argmax(0)
    median = ordered.gather(0, first.unsqueeze(0)).squeeze(0)
    return torch.where(weights.isnan().any(0).unsqueeze(-1), torch.nan, median)
