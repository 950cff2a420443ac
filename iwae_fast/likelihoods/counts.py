"""Counts 0, 1, 2, ... with more variance than a Poisson distribution, such as molecules per gene in a cell."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from ..checks import accumulation_dtype
from .base import Likelihood, observed, parts_by_sample, parts_of, sum_observed
from .negative_binomial import negative_binomial_log_prob, zero_inflated_log_prob


class NegativeBinomial(Likelihood):
    """Independent negative binomial counts with mean mu and inverse dispersion theta.

    The variance is mu + mu^2 / theta; theta -> inf is the Poisson distribution. The decoder returns
    (log_mean, log_theta), each (N, ...): the logarithms of mu and theta as in scVI (Lopez et al. 2018).
    torch.distributions calls theta ``total_count`` and log_mean - log_theta ``logits``. The decoder may add the size
    factor of a cell to log_mean, from its context.

    Computation is in float64, whatever the dtype of the inputs, in a form that does not cancel. For log_mean from -inf
    to 700, any log_theta and counts up to 1e8, the error of a log-probability is at most 1e-14 relative plus 1e-14
    nats, plus the effect of rounding the mean; that of a gradient is at most 1e-13 in the same sense. A count of zero
    at a mean of zero has log-probability 0, any other count -inf. Counts may have any floating or integer dtype.
    """

    name = "negative-binomial"
    outputs: tuple[str, ...] = ("log_mean", "log_theta")
    support: constraints.Constraint = constraints.nonnegative_integer

    def log_prob(
        self, value: Tensor, output: Any, num_samples: int, mask: Tensor | None = None, backend: str | None = None
    ) -> Tensor:
        parts = parts_by_sample(self, output, num_samples, value)
        flat = value.flatten(1)
        dtype = accumulation_dtype(flat, *parts)
        terms = self._log_prob(*observed(mask, flat, *parts))
        return sum_observed(terms, mask).to(dtype)

    def _log_prob(self, value: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
        """Return the log-probability per count."""
        return negative_binomial_log_prob(value, log_mean, log_theta)

    def mean(self, output: Any) -> Tensor:
        return torch.exp(parts_of(output, self)[0])

    def sample(self, output: Any, generator: torch.Generator | None = None) -> Tensor:
        """Draw from a Poisson distribution whose mean is drawn from a Gamma distribution."""
        log_mean, log_theta = parts_of(output, self)[:2]
        # Beyond these limits a Gamma variable with mean 1 rounds to 1, or is almost always 0.
        theta = torch.exp(log_theta.double().clamp(-600.0, 80.0))
        rate = torch._standard_gamma(theta, generator=generator) / theta * torch.exp(log_mean.double())
        return torch.poisson(rate, generator=generator).to(log_mean.dtype)

    def initial_biases(self, data_mean: Tensor) -> dict[str, Tensor]:
        return {"log_mean": torch.log(data_mean.clamp(min=1e-4))}

    def encoder_input(self, x: Tensor) -> Tensor:
        """Return log(1 + x), since counts range over decades; 0 for negative x, as pseudo-inputs of a prior may be."""
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        return torch.log1p(x.clamp(min=0.0))


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """A :class:`NegativeBinomial` count that is replaced by 0 with a separate probability, as by a failed measurement.

    The decoder returns (log_mean, log_theta, dropout_logits), each (N, ...), the last being the logits of the
    probability of replacement (Lopez et al. 2018). The mean is (1 - dropout) mu.
    """

    name = "zero-inflated-negative-binomial"
    outputs: tuple[str, ...] = ("log_mean", "log_theta", "dropout_logits")

    def _log_prob(self, value: Tensor, log_mean: Tensor, log_theta: Tensor, *dropout: Tensor) -> Tensor:
        logits = dropout[0].double()
        counted = negative_binomial_log_prob(value, log_mean, log_theta)
        return torch.where(value == 0, zero_inflated_log_prob(counted, logits), counted + F.logsigmoid(-logits))

    def mean(self, output: Any) -> Tensor:
        log_mean, _, logits = parts_of(output, self)
        return torch.exp(log_mean + F.logsigmoid(-logits))  # either factor alone may overflow or underflow

    def initial_biases(self, data_mean: Tensor) -> dict[str, Tensor]:
        """Return the bias for a mean of the counts that is twice that of the data: dropout starts at one half."""
        return {"log_mean": super().initial_biases(data_mean)["log_mean"] + math.log(2.0)}

    def sample(self, output: Any, generator: torch.Generator | None = None) -> Tensor:
        counts = super().sample(output, generator)
        return counts * torch.bernoulli(torch.sigmoid(-parts_of(output, self)[2]), generator=generator)
