"""The first-order jackknife bound, with as few passes over the log-weights as possible.

The largest weight of each column is handled separately: 1 - w~ loses all significant digits where w~ is near 1, so for
the largest it is computed as the sum of the others. The other terms use the others' shares of that sum.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ..ops.weights import log_mean_exp


class Parts(NamedTuple):
    """Intermediate results from which the value and the gradient are computed, per column (...) or sample (k, ...)."""

    largest: Tensor
    """The largest log-weight, (...); ``log_total`` and ``log_others`` are relative to it."""
    log_total: Tensor
    """The log of the sum of all weights, (...)."""
    log_others: Tensor
    """The log of the sum of all weights except the largest, (...)."""
    top: Tensor
    """The index of the largest weight, (1, ...)."""
    shares: Tensor
    """Each weight divided by the sum of all weights except the largest, (k, ...); 0 for the largest."""
    weights: Tensor
    """Normalized weights, (k, ...), with 0 for the largest; each is at most one half."""


class FirstOrder(Function):
    """The function L - (k-1)/k sum_i [log(1 - w~_i) - log(1 - 1/k)] of log-weights (k, ...).

    L is the IWAE bound. The value is -inf where all weights are 0.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(log_weights: Tensor) -> tuple[Tensor, ...]:
        parts = parts_of(log_weights)
        return value_of(parts), *parts

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
        _, *parts = output
        ctx.mark_non_differentiable(*parts)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> Tensor | None:
        if grad is None:
            return None
        log_weights, *parts = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives autograd must differentiate the formulas
            parts = parts_of(log_weights)
        return gradient_of(Parts(*parts)) * grad


def parts_of(log_weights: Tensor) -> Parts:
    """Compute the intermediate results of log-weights (k, ...)."""
    largest, top = log_weights.max(0, keepdim=True)
    others = log_weights.scatter(0, top, -math.inf)
    largest, shift = largest.squeeze(0), log_mean_exp(others.detach())
    # Sum again and divide: exp(others - log of their sum) has only the digits that this log has after its decimal
    # point. Without other weights the shares are 0; a column whose weights are all 0 is treated the same way.
    unscaled = torch.exp(others - torch.where(shift == -math.inf, 0.0, shift))
    total = unscaled.sum(0)
    # A log of 0 enters through the shift: log(total) at 0 would have no derivative, and NaN if all weights are 0.
    total = torch.where(total == 0, 1.0, total)
    shares = unscaled / total
    log_others = torch.where(largest == -math.inf, -math.inf, shift - largest) + torch.log(total)
    log_total = torch.log1p(torch.exp(log_others))
    return Parts(largest, log_total, log_others, top, shares, shares * torch.exp(log_others - log_total))


def value_of(parts: Parts) -> Tensor:
    """Compute the bound, shape (...)."""
    k = len(parts.weights)
    log_rest = torch.log1p(-parts.weights).sum(0) + (parts.log_others - parts.log_total)
    value = parts.largest + parts.log_total - math.log(k) - (k - 1) / k * (log_rest - k * math.log1p(-1.0 / k))
    return torch.where(parts.largest == -math.inf, -math.inf, value)


def gradient_of(parts: Parts) -> Tensor:
    """Compute g_i = w_i + c (w_i - A_i) with c = (k-1)/k and A_i = w_i sum w_a / (1 - w_a) over the other samples a.

    For the largest sample a, w_i w_a / (1 - w_a) is computed as w_a times the share of i.
    """
    return _gradient(parts, *_common(parts))


def derivatives_of(parts: Parts) -> tuple[Tensor, Tensor]:
    """Compute g, and D_i = w_i (1 - w_i) + c [(1 - w_i) (w_i - A_i) + B_i] with B_i = w_i^2 sum w_a / (1 - w_a)^2."""
    c, odds, slope, top_weight, rest_weight = common = _common(parts)
    weights, shares = parts.weights, parts.shares
    linear = shares * (rest_weight * slope - c * top_weight)
    squares = (odds / (1.0 - weights)).sum(0)
    D = torch.addcmul(linear, weights, linear, value=-1.0)
    D = torch.addcmul(D, shares.square(), c * (rest_weight.square() * (1.0 + squares) + top_weight))
    D = torch.addcmul(D, weights, odds.square(), value=-c)
    D_top = top_weight * rest_weight * slope + c * top_weight.square() * squares
    return _gradient(parts, *common), _at_top(parts, D_top, D)


def _common(parts: Parts) -> tuple[float, Tensor, Tensor, Tensor, Tensor]:
    """Return c, the odds w / (1 - w) (0 for the largest), 1 + c - c times the sum of the odds, the normalized weight of
    the largest, and that of all others together."""
    c = (len(parts.weights) - 1) / len(parts.weights)
    odds = parts.weights / (1.0 - parts.weights)
    top_weight = torch.where(parts.largest == -math.inf, 0.0, torch.exp(-parts.log_total))
    return c, odds, 1.0 + c - c * odds.sum(0), top_weight, torch.exp(parts.log_others - parts.log_total)


def _gradient(parts: Parts, c: float, odds: Tensor, slope: Tensor, top_weight: Tensor, rest_weight: Tensor) -> Tensor:
    g = torch.addcmul(parts.shares * (rest_weight * slope - c * top_weight), parts.weights, odds, value=c)
    return _at_top(parts, top_weight * slope, g)


def _at_top(parts: Parts, value: Tensor, others: Tensor) -> Tensor:
    """Return ``value`` at the largest weight and ``others`` elsewhere.

    A mask instead of a scatter, since scattering a tensor may force a device synchronization.
    """
    samples = torch.arange(len(others), device=others.device).view(-1, *(1,) * (others.dim() - 1))
    return torch.where(samples == parts.top, value, others)
