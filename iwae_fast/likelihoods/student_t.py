"""Real features with heavy tails."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import accumulation_dtype
from .base import Likelihood, elementwise, observed, parts_by_sample, parts_of, sum_observed
from .bounded import bounded, checked_bounds
from .negative_binomial import scaled
from .series import digamma_remainder, log_gamma_remainder, scaled_deviation

LOG_LIMIT = 80.0
"""The largest log_df that is told from infinity: beyond it the distribution is a Gaussian one to rounding."""


class StudentT(Likelihood):
    """Independent features with Student's t distribution; the decoder returns (mean, log_scale, log_df), each (N, ...).

    df, the number of degrees of freedom, is the exponential of log_df; the distribution is Gaussian for df -> inf and
    Cauchy at df = 1. Outliers among the observations change the other parameters little, and missing features are
    imputed by it in Mattei & Frellsen (2019). Computation is in float64, in a form that does not cancel. ``mean`` is
    the center, which is E[x | z] only for df > 1.

    Args:
        log_std_bounds: bounds (low, high) of log_scale, as for :class:`iwae_fast.likelihoods.Gaussian`.
    """

    name = "student-t"
    outputs: tuple[str, ...] = ("mean", "log_scale", "log_df")
    takes_integers = False

    def __init__(self, log_std_bounds: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.log_std_bounds: tuple[float, float] | None = checked_bounds(log_std_bounds)

    def log_prob(
        self, value: Tensor, output: Any, num_samples: int, mask: Tensor | None = None, backend: str | None = None
    ) -> Tensor:
        mean, log_scale, log_df = parts_by_sample(self, output, num_samples, value)
        flat = value.flatten(1)
        dtype = accumulation_dtype(flat, mean, log_scale, log_df)
        # Bounded before masked entries are replaced by 0, which need not lie within the bounds.
        parts = observed(mask, flat, mean, bounded(log_scale, self.log_std_bounds), log_df)
        return sum_observed(student_t_log_prob(*parts), mask).to(dtype)

    def mean(self, output: Any) -> Tensor:
        return parts_of(output, self)[0]

    def sample(self, output: Any, generator: torch.Generator | None = None) -> Tensor:
        """Draw from a Gaussian distribution whose precision is drawn from a Gamma distribution."""
        mean, log_scale, log_df = parts_of(output, self)
        noise = torch.randn(mean.shape, generator=generator, dtype=torch.float64, device=mean.device)
        half = 0.5 * torch.exp(log_df.double().clamp(-20.0, LOG_LIMIT))
        precision = torch._standard_gamma(half, generator=generator) / half
        scale = torch.exp(bounded(log_scale, self.log_std_bounds).double())
        return (mean + scale * noise * precision.rsqrt()).to(mean.dtype)

    def initial_biases(self, data_mean: Tensor) -> dict[str, Tensor]:
        """Return the bias of the center, and that for about 10 degrees of freedom."""
        return {"mean": data_mean, "log_df": torch.full_like(data_mean, math.log(10.0))}

    def extra_repr(self) -> str:
        return f"log_std_bounds={self.log_std_bounds}"


def student_t_log_prob(value: Tensor, mean: Tensor, log_scale: Tensor, log_df: Tensor) -> Tensor:
    """Compute the log-density of Student's t distribution per feature, float64; see :class:`StudentT`."""
    return elementwise(_StudentT, value, mean, log_scale, log_df)


def _log_squared(value: Tensor, mean: Tensor, log_scale: Tensor, log_df: Tensor) -> tuple[Tensor, Tensor]:
    """Return x - mean, and log(((x - mean) / scale)^2 / df), whose terms do not overflow. At x = mean it is -inf."""
    difference = value.double() - mean.double()
    zero = difference == 0
    log_size = torch.log(torch.where(zero, 1.0, difference).abs())
    found = 2.0 * (log_size - log_scale.double()) - log_df
    return difference, torch.where(zero & ~found.isnan(), -math.inf, found)


def _limited(log_df: Tensor) -> Tensor:
    return log_df.double().clamp(-1e6, LOG_LIMIT)


class _StudentT(torch.autograd.Function):
    """The log-density, which saves only its arguments for the backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, mean: Tensor, log_scale: Tensor, log_df: Tensor) -> Tensor:
        log_df = _limited(log_df)
        half, log_half = 0.5 * torch.exp(log_df), log_df - math.log(2.0)
        _, log_squared = _log_squared(value, mean, log_scale, log_df)
        # log Gamma(h + 1/2) - log Gamma(h) - log(h) / 2, whose large terms cancel in Stirling's formula.
        above, log_above = half + 0.5, torch.log(half + 0.5)
        growth = torch.where(half > 1.0, half * torch.log1p(0.5 / half.clamp(min=1.0)), half * (log_above - log_half))
        ratio = growth - 0.5 + log_gamma_remainder(above, log_above) - log_gamma_remainder(half, log_half)
        return (
            ratio - 0.5 * math.log(2.0 * math.pi) - log_scale.double() - above * F.softplus(log_squared, threshold=700)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        arguments = ctx.saved_tensors
        slopes = _slopes(*arguments)
        return tuple(
            scaled(grad, slope).sum_to_size(argument.shape).to(argument.dtype) if needed else None
            for argument, slope, needed in zip(arguments, slopes, ctx.needs_input_grad, strict=True)
        )


def _slopes(value: Tensor, mean: Tensor, log_scale: Tensor, log_df: Tensor) -> tuple[Tensor, ...]:
    """Return the derivatives with respect to x, mean, log_scale and log_df."""
    limited = _limited(log_df)
    df = torch.exp(limited)
    half = 0.5 * df
    difference, log_squared = _log_squared(value, mean, log_scale, limited)
    share = torch.sigmoid(log_squared)  # y^2 / (df + y^2)
    weight = (df + 1.0) * share
    # Near the mean (df + 1) share / difference is 0 / 0; there the share is proportional to the squared difference.
    scale = torch.exp(log_scale.double().clamp(-345.0, 345.0))
    near = (1.0 + 1.0 / df.clamp(min=1e-300)) * torch.sigmoid(-log_squared) * (difference / scale) / scale
    by_mean = torch.where(log_squared < 0, near, weight / torch.where(difference == 0, 1.0, difference))
    above = half + 0.5
    growth = torch.where(half > 1.0, half * torch.log1p(0.5 / half.clamp(min=1.0)), half * torch.log(above / half))
    growth = torch.where(half == 0, 0.0, growth)
    # h (digamma(h + 1/2) - digamma(h))
    digammas = growth - half * (0.5 + digamma_remainder(above)) / above + 0.5 + digamma_remainder(half)
    # df (log(1 + r) - share), with r = y^2 / df, is 0 to first order in r.
    deviance = scaled_deviation(df, -df * share, -share, -F.softplus(log_squared, threshold=700))
    by_df = digammas - 0.5 - 0.5 * deviance + 0.5 * share
    by_df = torch.where(log_df.double() > LOG_LIMIT, 0.0, by_df)
    return -by_mean, by_mean, weight - 1.0, by_df
