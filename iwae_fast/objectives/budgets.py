"""The selection of samples that run backward, given the scales of their gradients.

Samples are ranked by s_i = |a_i| / sum |a| + |b_i| / sum |b|, with the decoder's scales a and the encoder's scales b (a
term whose sum is zero is left out), so that a sample that contributes to either network ranks high.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .estimators import Scales


class Selection(NamedTuple):
    """The samples that run backward, and the scales of their gradients."""

    samples: Tensor
    """Indices of the samples, (m, B), int64."""
    scales: Scales
    """Scales of their gradients, each (m, B)."""
    num_used: Tensor
    """Number of samples with a nonzero scale, (B,)."""
    ratio: Tensor | None = None
    """The encoder's scales divided by the decoder's, (m, B), if they were computed with the selection; the decoder's
    are then raised as by :func:`iwae_fast.objectives.routing.with_ratio`."""


def within_budget(scales: Scales, budget: int, exponential: Tensor) -> Selection:
    """Select the ``budget - 1`` samples with the largest s, and one sampled from the remainder with probability
    proportional to s, reweighted to represent it.

    The gradient is unbiased, shapes are fixed, and no device synchronization is needed (Liu et al. 2019,
    Rao-Blackwellized stochastic gradients; a budget of 1 is the single sample of Burda, Grosse & Salakhutdinov 2016,
    section 3.1).

    Args:
        scales: each (k, B).
        budget: m, 1 <= m <= k.
        exponential: (k, B) independent draws of the exponential distribution: exponential_i / s_i is smallest at i with
            probability s_i / sum s.
    """
    importance = _importance(scales)
    largest = importance.topk(budget - 1, dim=0).indices
    rest = importance.scatter(0, largest, 0.0)
    drawn = (rest / exponential).argmax(0, keepdim=True)
    drawn_importance = rest.gather(0, drawn)
    # The inverse of the probability with which it was drawn from the remainder; 0 if the remainder is all zero.
    times = torch.where(drawn_importance > 0, rest.sum(0, keepdim=True) / drawn_importance, 0.0)
    factors = torch.cat([torch.ones_like(largest, dtype=times.dtype), times])
    return _select(scales, torch.cat([largest, drawn]), factors)


def to_tolerance(scales: Scales, tolerance: float) -> Selection:
    """Drop the smallest scales of each network, whose absolute values sum to at most ``tolerance`` times the total.

    Dropped samples are not compensated for, so the gradient is biased by that fraction at most. The number of samples
    left depends on the data, so this forces a device synchronization and cannot be captured in a CUDA graph.
    """
    dropped = _each(scales, lambda scale: _without_smallest(scale, tolerance))
    used = (dropped.decoder != 0) | (dropped.encoder != 0)
    most = max(int(used.sum(0).max()) if used.numel() else 0, 1)
    index = torch.where(used, _importance(scales), -1.0).topk(most, dim=0).indices
    return _select(dropped, index)


def _each(scales: Scales, function: Callable[[Tensor], Tensor]) -> Scales:
    decoder = function(scales.decoder)
    return Scales(decoder, decoder if scales.encoder is scales.decoder else function(scales.encoder))


def _importance(scales: Scales) -> Tensor:
    if scales.encoder is scales.decoder:
        return _shares(scales.decoder)
    return _shares(scales.decoder) + _shares(scales.encoder)


def _shares(scale: Tensor) -> Tensor:
    """Return absolute values divided by their sum, or 0 if the sum is 0."""
    size = scale.abs()
    return size / size.sum(0).clamp(min=torch.finfo(size.dtype).tiny)


def _without_smallest(scale: Tensor, tolerance: float) -> Tensor:
    ordered, order = scale.abs().sort(dim=0)
    small = ordered.cumsum(0) <= tolerance * ordered.sum(0)
    return torch.where(torch.zeros_like(small).scatter(0, order, small), 0.0, scale)


def _select(scales: Scales, index: Tensor, factor: Tensor | None = None) -> Selection:
    def chosen(scale: Tensor) -> Tensor:
        taken = scale.gather(0, index)
        return taken if factor is None else taken * factor.to(taken.dtype)

    selected = _each(scales, chosen)
    used = (selected.decoder != 0) | (selected.encoder != 0)
    return Selection(index, selected, used.sum(0))
