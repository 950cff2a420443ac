"""The negative binomial probability of a count, and its mixture with zero, for parameters from 0 to infinity.

The kernels compute the same by another formula (csrc/math/negative_binomial.h).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .apply import elementwise
from .series import HALF_LOG_2PI, digamma_remainder, log_gamma_remainder, scaled_deviation

TINY = 1e-300


def count_log_prob(value: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
    """Compute log Gamma(x + t) - log Gamma(t) - log x! + x log(m / (t + m)) + t log(t / (t + m)) per count x.

    These terms are not computed directly, since they cancel. With n = x + t, the sum is minus the deviance of (x, t)
    from (n m / (t + m), n t / (t + m)), plus remainders of Stirling's formula, which are small (Loader 2000, "Fast and
    accurate computation of binomial probabilities"). The result is float64.

    Shapes broadcast. ``log_theta`` may be inf, which is the Poisson distribution. Either parameter may be -inf, which
    allows only a count of zero: zero has log-probability 0, other counts -inf. Gradients are computed in the same way,
    and are zero where the upstream gradient is zero. For a count x > 0 the gradients with respect to ``log_mean`` and
    ``log_theta`` at ``log_theta`` = -inf are their limits 0 and 1. If both are -inf the limit depends on the path; it
    is taken in ``log_mean`` first, as at any other ``log_theta``: x and 1 - x.
    """
    return elementwise(_NegativeBinomial, value, log_mean, log_theta)


def zero_log_prob(log_prob: Tensor, logits: Tensor) -> Tensor:
    """Compute log(d + (1 - d) p), the log-probability of a count of zero, from log p and the logits of d.

    Either may have any size or be infinite. The result is float64.
    """
    return elementwise(_ZeroInflated, log_prob, logits)


def zero_inflated_log_prob(value: Tensor, log_mean: Tensor, log_theta: Tensor, logits: Tensor) -> Tensor:
    """Compute the log-probability of a count that is replaced by 0 with the probability whose logits are given
    (float64)."""
    counted = count_log_prob(value, log_mean, log_theta)
    return torch.where(value == 0, zero_log_prob(counted, logits), counted + F.logsigmoid(-logits.double()))


class _Parts(NamedTuple):
    """Quantities that the probability and its derivatives share; t is theta, m the mean, n = x + t."""

    x: Tensor
    log_x: Tensor
    log_mean: Tensor
    log_theta: Tensor
    mean: Tensor
    theta: Tensor
    n: Tensor
    log_n: Tensor
    ratio: Tensor
    """min(m, t) / max(m, t)."""
    log1p_ratio: Tensor
    excess: Tensor
    """(x - m) t / (t + m): x minus n m / (t + m), and the derivative with respect to log m."""
    log_n_ratio: Tensor
    """log(n / (t + m))."""
    deviance_of_theta: Tensor
    """t (u - log(1 + u)) with 1 + u = n / (t + m)."""


class _NegativeBinomial(torch.autograd.Function):
    """The log-probability, which saves only its arguments for the backward pass.

    Its backward pass consists of ordinary operations, which can be differentiated again for moderate parameters.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
        value = value.double()
        zero = value == 0
        p = _parts(torch.where(zero, 1.0, value), log_mean, log_theta)
        relative = -p.excess / p.x
        # For a mean count much smaller than x the logarithm of their ratio is computed as a sum of logarithms.
        log_ratio = torch.where(relative > -0.5, torch.log1p(relative), p.log_mean - p.log_x + p.log_n_ratio)
        deviance = scaled_deviation(p.x, -p.excess, relative, log_ratio) + p.deviance_of_theta
        log_n_of_theta = torch.where(p.theta > p.x, torch.log1p(p.x / p.theta), p.log_n - p.log_theta)
        x_terms = HALF_LOG_2PI + 0.5 * p.log_x + log_gamma_remainder(p.x, p.log_x)
        theta_terms = 0.5 * log_n_of_theta + log_gamma_remainder(p.theta, p.log_theta)
        # log_theta is clamped in _parts. Below that limit the probability of a count above 0 is proportional to theta.
        cut_off = (log_theta.double() - p.log_theta).clamp(max=0.0)
        log_prob = log_gamma_remainder(p.n, p.log_n) - x_terms - theta_terms - deviance + cut_off
        return torch.where(zero, _log_prob_of_zero(p), log_prob)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        arguments = ctx.saved_tensors
        value, log_mean, log_theta = arguments
        slopes = _slopes(value, log_mean, log_theta, ctx.needs_input_grad[0])
        return tuple(
            None if slope is None else scaled(grad, slope).sum_to_size(argument.shape).to(argument.dtype)
            for argument, slope in zip(arguments, slopes, strict=True)
        )


def _parts(value: Tensor, log_mean: Tensor, log_theta: Tensor) -> _Parts:
    x, s = value.double(), log_mean.double()
    t = log_theta.double().clamp(-1e6, 800.0)  # e^800 is infinite, and multiples of its reciprocal are 0
    mean, theta, log_x = torch.exp(s), torch.exp(t), torch.log(x)
    n, total = x + theta, (theta + mean).clamp(min=TINY)
    ratio = torch.exp(-(s - t).abs())
    log1p_ratio = torch.log1p(ratio)
    larger = (1.0 + ratio).reciprocal()
    theta_of_total = torch.where(s < t, larger, ratio * larger)
    mean_of_total = torch.where(s < t, ratio * larger, larger)
    close = (s - log_x).abs() < 1.0  # x - m is subtracted only here; elsewhere m may overflow
    difference = torch.where(close, x - mean, 0.0)
    mean_count_of_zero = torch.where(s < t, mean, theta) * larger
    excess = torch.where(close, difference * theta_of_total, x * theta_of_total - mean_count_of_zero)
    relative = torch.where(close, difference / total, x / total - mean_of_total)
    small = relative.abs() < 0.5
    log_n = torch.where(n > TINY, torch.log(n), t)
    log_n_ratio = torch.where(
        small, torch.log1p(torch.where(small, relative, 0.0)), log_n - torch.maximum(s, t) - log1p_ratio
    )
    deviance = scaled_deviation(theta, excess, relative, log_n_ratio)
    return _Parts(x, log_x, s, t, mean, theta, n, log_n, ratio, log1p_ratio, excess, log_n_ratio, deviance)


def _log_prob_of_zero(p: _Parts) -> Tensor:
    """Return -t log(1 + m / t), which is -m for large t."""
    per_mean = torch.where(p.ratio == 0, 1.0, p.log1p_ratio / torch.where(p.ratio == 0, 1.0, p.ratio))
    odds = p.log_mean - p.log_theta
    return -torch.where(odds < 0, p.mean * per_mean, p.theta * (odds + p.log1p_ratio))


def _slopes(
    value: Tensor, log_mean: Tensor, log_theta: Tensor, by_value: bool = True
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the derivatives with respect to the count, as if it were real, log_mean and log_theta."""
    p = _parts(value, log_mean, log_theta)
    x_share, remainder = p.x / p.n.clamp(min=TINY), digamma_remainder(p.n)
    counted = 0.5 * x_share + digamma_remainder(p.theta) - (1.0 - x_share) * remainder
    slope = p.log_n_ratio - (0.5 + remainder) / p.n - torch.digamma(p.x + 1.0) + p.log_mean if by_value else None
    return slope, p.excess, counted - p.deviance_of_theta


class _ZeroInflated(torch.autograd.Function):
    """The log-probability of a zero, which saves only its arguments, and whose gradient is finite at infinite logits,
    unlike autograd's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(log_prob: Tensor, logits: Tensor) -> Tensor:
        logits = logits.double()
        change = torch.sigmoid(-logits) * torch.expm1(log_prob)
        small = change > -0.5
        far = torch.logaddexp(F.logsigmoid(logits), log_prob + F.logsigmoid(-logits))
        return torch.where(small, torch.log1p(torch.where(small, change, 0.0)), far)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            scaled(grad, slope).to(argument.dtype)
            for argument, slope in zip(ctx.saved_tensors, _mixture_slopes(*ctx.saved_tensors), strict=True)
        )


def _mixture_slopes(log_prob: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives: the probability that a zero was counted, and (1 - p) (1 - d) times the probability that
    it was not."""
    logits = logits.double()
    odds = logits - log_prob
    return torch.sigmoid(-odds), -torch.expm1(log_prob) * torch.sigmoid(-logits) * torch.sigmoid(odds)


def scaled(grad: Tensor, slope: Tensor) -> Tensor:
    """Return gradient times derivative, and 0 where the gradient is 0, also if the derivative is infinite."""
    return torch.where(grad == 0, 0.0, grad * slope)
