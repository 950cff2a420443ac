"""Counts with Poisson noise."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from ..checks import accumulation_dtype
from .base import Likelihood, elementwise, observed, parts_by_sample, parts_of, sum_observed
from .negative_binomial import scaled, zero_inflated_log_prob
from .series import HALF_LOG_2PI, log_gamma_remainder, scaled_deviation


class Poisson(Likelihood):
    """Independent Poisson counts; the decoder returns the logarithm of the rate, (N, ...).

    Computation is in float64, in a form that does not cancel for large counts (Loader 2000, "Fast and accurate
    computation of binomial probabilities"). A rate of zero (log_rate = -inf) allows only a count of zero. Counts may
    have any floating or integer dtype.
    """

    name = "poisson"
    outputs: tuple[str, ...] = ("log_rate",)
    support: constraints.Constraint = constraints.nonnegative_integer

    def log_prob(
        self, value: Tensor, output: Any, num_samples: int, mask: Tensor | None = None, backend: str | None = None
    ) -> Tensor:
        parts = parts_by_sample(self, output, num_samples, value)
        flat = value.flatten(1)
        dtype = accumulation_dtype(flat, *parts)
        terms = self._log_prob(*observed(mask, flat, *parts))
        return sum_observed(terms, mask).to(dtype)

    def _log_prob(self, value: Tensor, log_rate: Tensor) -> Tensor:
        """Return the log-probability per count."""
        return poisson_log_prob(value, log_rate)

    def mean(self, output: Any) -> Tensor:
        return torch.exp(parts_of(output, self)[0])

    def sample(self, output: Any, generator: torch.Generator | None = None) -> Tensor:
        log_rate: Tensor = parts_of(output, self)[0]
        return torch.poisson(torch.exp(log_rate.double()), generator=generator).to(log_rate.dtype)

    def initial_biases(self, data_mean: Tensor) -> dict[str, Tensor]:
        return {"log_rate": torch.log(data_mean.clamp(min=1e-4))}

    def encoder_input(self, x: Tensor) -> Tensor:
        """Return log(1 + x), since counts range over decades; 0 for negative x, as pseudo-inputs of a prior may be."""
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        return torch.log1p(x.clamp(min=0.0))


class ZeroInflatedPoisson(Poisson):
    """A :class:`Poisson` count that is replaced by 0 with a separate probability (Lambert 1992).

    The decoder returns (log_rate, dropout_logits), each (N, ...), the latter being the logits of the probability of
    replacement. The mean is (1 - dropout) rate.
    """

    name = "zero-inflated-poisson"
    outputs: tuple[str, ...] = ("log_rate", "dropout_logits")

    def _log_prob(self, value: Tensor, log_rate: Tensor, *dropout: Tensor) -> Tensor:
        logits = dropout[0].double()
        counted = poisson_log_prob(value, log_rate)
        return torch.where(value == 0, zero_inflated_log_prob(counted, logits), counted + F.logsigmoid(-logits))

    def mean(self, output: Any) -> Tensor:
        log_rate, logits = parts_of(output, self)
        return torch.exp(log_rate + F.logsigmoid(-logits))  # either factor alone may overflow or underflow

    def initial_biases(self, data_mean: Tensor) -> dict[str, Tensor]:
        """Return the bias for a mean of the counts that is twice that of the data: dropout starts at one half."""
        return {"log_rate": super().initial_biases(data_mean)["log_rate"] + math.log(2.0)}

    def sample(self, output: Any, generator: torch.Generator | None = None) -> Tensor:
        counts = super().sample(output, generator)
        return counts * torch.bernoulli(torch.sigmoid(-parts_of(output, self)[1]), generator=generator)


def poisson_log_prob(value: Tensor, log_rate: Tensor) -> Tensor:
    """Compute x log m - m - log x! per count x, with m = exp(log_rate), in float64.

    It is minus the deviance of x from m, minus the remainder of Stirling's formula for x!.
    """
    return elementwise(_Poisson, value, log_rate)


class _Poisson(torch.autograd.Function):
    """The log-probability, which saves only its arguments for the backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, log_rate: Tensor) -> Tensor:
        x, s = value.double(), log_rate.double()
        zero = x == 0
        rate = torch.exp(s)
        count = torch.where(zero, 1.0, x)
        log_count = torch.log(count)
        change = rate - count
        relative = change / count
        log_ratio = torch.where(relative > -0.5, torch.log1p(relative), s - log_count)
        deviance = scaled_deviation(count, change, relative, log_ratio)
        # Where the rate overflows so does its difference to any count.
        deviance = torch.where(rate.isinf(), rate, deviance)
        positive = -(HALF_LOG_2PI + 0.5 * log_count + log_gamma_remainder(count, log_count)) - deviance
        return torch.where(zero, -rate, positive)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        value, log_rate = ctx.saved_tensors
        x, s = value.double(), log_rate.double()
        by_value = None
        if ctx.needs_input_grad[0]:
            by_value = scaled(grad, s - torch.digamma(x + 1.0)).sum_to_size(value.shape).to(value.dtype)
        by_rate = scaled(grad, x - torch.exp(s)).sum_to_size(log_rate.shape).to(log_rate.dtype)
        return by_value, by_rate
