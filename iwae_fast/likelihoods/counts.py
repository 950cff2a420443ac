"""Counts 0, 1, 2, ... with more variance than a Poisson distribution, such as molecules per gene in a cell."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import constraints

from .. import checks
from ..modules import defines
from ..ops.densities import counts, negative_binomial_log_prob, zero_inflated_negative_binomial_log_prob
from ..ops.losses import IWAEResult, fused_iwae
from .base import Likelihood, parts_by_sample, parts_of


class NegativeBinomial(Likelihood):
    """Independent negative binomial counts with mean mu and inverse dispersion theta.

    The variance is mu + mu^2 / theta; theta -> inf is the Poisson distribution. The decoder returns
    (log_mean, log_theta), each (N, ...): the logarithms of mu and theta as in scVI (Lopez et al. 2018).
    torch.distributions calls theta ``total_count`` and log_mean - log_theta ``logits``. The decoder may add the size
    factor of a cell to log_mean, from its context.

    The log-probability is fused: :func:`iwae_fast.negative_binomial_log_prob`. Its terms are computed in float64,
    whatever the dtype of the inputs, in a form that does not cancel, and added in float32, or in float64 if any input
    is float64. For log_mean from -inf to 700, any log_theta and counts up to 1e8, the error of a term is at most 1e-14
    relative plus 1e-14 nats, plus the effect of rounding the mean and the term; that of a gradient is at most 1e-13 in
    the same sense. A count of zero at a mean of zero has log-probability 0, any other count -inf. Counts may have any
    floating or integer dtype.

    Args:
        num_features: if given, D: log_theta is then a parameter of the likelihood with one entry per feature, (D,),
            initialized with 0, and the decoder does not return it (the gene-wise dispersion of Lopez et al. 2018).
    """

    name = "negative-binomial"
    outputs: tuple[str, ...] = ("log_mean", "log_theta")
    support: constraints.Constraint = constraints.nonnegative_integer
    density = staticmethod(negative_binomial_log_prob)
    """The op of the log-probability: of counts, the decoder's outputs and a mask."""

    def __init__(self, num_features: int | None = None) -> None:
        super().__init__()
        self.num_features = num_features
        self.log_theta: nn.Parameter | None = None
        if num_features is not None:
            self.outputs = tuple(name for name in self.outputs if name != "log_theta")
            self.log_theta = nn.Parameter(torch.zeros(checks.positive("num_features", num_features)))

    def log_prob(
        self, value: Tensor, output: Any, num_samples: int, mask: Tensor | None = None, backend: str | None = None
    ) -> Tensor:
        return self.density(value.flatten(1), *self._parameters_of(output, num_samples, value), mask, backend=backend)

    def _parameters_of(self, output: Any, num_samples: int, value: Tensor) -> list[Tensor]:
        """Return log_mean, log_theta and what follows: of the decoder (k, B, D), and of the likelihood (D,)."""
        parts = parts_by_sample(self, output, num_samples, value)
        if self.log_theta is not None:
            parts.insert(1, self.log_theta)
        return parts

    def iwae_loss(
        self,
        value: Tensor,
        output: Any,
        log_ratio: Tensor,
        mask: Tensor | None = None,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> IWAEResult:
        if defines(self, NegativeBinomial, "log_prob"):
            parts = self._parameters_of(output, len(log_ratio), value)
            tensors = dict(zip(type(self).outputs, parts, strict=True))
            flat = counts(value.flatten(1), *parts, log_ratio)
            name = self.density.__name__.removesuffix("_log_prob")
            if fused := fused_iwae(name, log_ratio, mask, reduction, backend, value=flat, **tensors):
                return fused
        return super().iwae_loss(value, output, log_ratio, mask, reduction, backend)

    def mean(self, output: Any) -> Tensor:
        return torch.exp(parts_of(output, self)[0])

    def sample(self, output: Any, generator: torch.Generator | None = None) -> Tensor:
        """Draw from a Poisson distribution whose mean is drawn from a Gamma distribution."""
        log_mean, *others = parts_of(output, self)
        log_theta = others[0] if self.log_theta is None else self.log_theta
        # Beyond these limits a Gamma variable with mean 1 rounds to 1, or is almost always 0.
        theta = torch.exp(log_theta.double().clamp(-600.0, 80.0)).expand(log_mean.shape)
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
    density = staticmethod(zero_inflated_negative_binomial_log_prob)

    def mean(self, output: Any) -> Tensor:
        log_mean, *_, logits = parts_of(output, self)
        return torch.exp(log_mean + F.logsigmoid(-logits))  # either factor alone may overflow or underflow

    def initial_biases(self, data_mean: Tensor) -> dict[str, Tensor]:
        """Return the bias for a mean of the counts that is twice that of the data: dropout starts at one half."""
        return {"log_mean": super().initial_biases(data_mean)["log_mean"] + math.log(2.0)}

    def sample(self, output: Any, generator: torch.Generator | None = None) -> Tensor:
        drawn = super().sample(output, generator)
        return drawn * torch.bernoulli(torch.sigmoid(-parts_of(output, self)[-1]), generator=generator)
