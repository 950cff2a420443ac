"""Which samples run backward, once the log-weights have told what their gradients are scaled by.

Samples are ranked by s_i = |a_i| / sum |a| + |b_i| / sum |b|, a the scales of the decoder and b those of the encoder
(a sum that is zero is left out), so that a sample matters that matters to either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .estimators import Scales


class Selection(NamedTuple):
    """The samples that run backward, and what their gradients are scaled by."""

    samples: Tensor
    """Which, (m, B), int64."""
    scales: Scales
    """Each (m, B)."""
    num_used: Tensor
    """How many of the m have a scale that is not zero, (B,)."""


def within_budget(scales: Scales, budget: int, exponential: Tensor) -> Selection:
    """The ``budget - 1`` samples of the largest s, and one drawn from the rest by s that stands for all of these.

    Unbiased, of fixed shape, and without waiting for a device (Liu et al. 2019, Rao-Blackwellised stochastic gradients;
    a budget of 1 is the single sample of Burda, Grosse & Salakhutdinov 2016, section 3.1).

    Args:
        scales: each (k, B).
        budget: m, 1 <= m <= k.
        exponential: (k, B) independent draws of the exponential distribution: the least of exponential_i / s_i is
            at i with probability s_i / sum s.
    """
    importance = _importance(scales)
    kept = importance.topk(budget - 1, dim=0).indices
    rest = importance.scatter(0, kept, 0.0)
    drawn = (rest / exponential).argmax(0, keepdim=True)
    of_drawn = rest.gather(0, drawn)
    # It stands for all of the rest. Where these are all zero there is nothing to stand for.
    times = torch.where(of_drawn > 0, rest.sum(0, keepdim=True) / of_drawn, 0.0)
    return _select(scales, torch.cat([kept, drawn]), torch.cat([torch.ones_like(kept, dtype=times.dtype), times]))


def to_tolerance(scales: Scales, tolerance: float) -> Selection:
    """All but the smallest: of each kind of scale, those whose absolute values sum to at most ``tolerance`` of all.

    What is dropped is not made up for, so the gradient is biased by that part. How many samples are left depends on the
    data, so the host waits for the device, and a CUDA graph cannot capture it.
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
    """Of the sum of absolute values; 0 where that is 0."""
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
