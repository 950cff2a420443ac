"""Priors p(z) of the topmost latents, in the place of the standard normal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from .. import checks
from ..ops.densities import gaussian_log_prob
from .supports import REAL, Region, region_of, region_of_constraint


class Prior(nn.Module, ABC):
    """p(z). Its parameters are the model's, and ascend what the decoder ascends: p(x, z) is one density.

    Any ``nn.Module`` with these two methods serves as well. One that has a :attr:`support` is held to it.
    """

    support: constraints.Constraint | None = None
    """Where p(z) has its density; None where that is not said. That of q(z | x) must be the same."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats, (...), of z (..., Z); differentiable in z and in the prior's parameters."""

    @abstractmethod
    def sample(self, num_samples: int) -> Tensor:
        """z ~ p(z), (num_samples, Z), by torch's own generator, which the model seeds."""


class GaussianMixture(NamedTuple):
    """A mixture of diagonal Gaussians."""

    mean: Tensor
    """(K, Z)."""
    log_std: Tensor
    """(K, Z)."""
    logits: Tensor | None = None
    """(K,), of the components' weights; equal weights if None."""

    def log_prob(self, z: Tensor) -> Tensor:
        """log sum_j w_j N(z; m_j, s_j), (...), of z (..., Z)."""
        checks.last_axis("z", z, self.mean.shape[-1], "the prior")
        by_component = gaussian_log_prob(z.unsqueeze(-2), self.mean, self.log_std)
        return torch.logsumexp(by_component + torch.log_softmax(self._logits(by_component.dtype), 0), -1)

    def sample(self, num_samples: int) -> Tensor:
        chosen = torch.multinomial(torch.softmax(self._logits(torch.float32), 0), num_samples, replacement=True)
        mean = self.mean[chosen]
        return mean + torch.exp(self.log_std[chosen]) * torch.randn_like(mean)

    def _logits(self, dtype: torch.dtype) -> Tensor:
        return self.mean.new_zeros(len(self.mean), dtype=dtype) if self.logits is None else self.logits.to(dtype)


class MixturePrior(Prior):
    """A mixture of K diagonal Gaussians whose means, log standard deviations and weights are learned.

    Means start as draws of a standard normal, standard deviations at 1, weights equal.

    Args:
        num_components: K.
        latent_dim: Z, of the topmost layer.
    """

    support = constraints.real_vector

    def __init__(self, num_components: int, latent_dim: int) -> None:
        super().__init__()
        shape = (checks.positive("num_components", num_components), checks.positive("latent_dim", latent_dim))
        self.mean = nn.Parameter(torch.randn(shape))
        self.log_std = nn.Parameter(torch.zeros(shape))
        self.logits = nn.Parameter(torch.zeros(num_components))

    def log_prob(self, z: Tensor) -> Tensor:
        return GaussianMixture(self.mean, self.log_std, self.logits).log_prob(z)

    def sample(self, num_samples: int) -> Tensor:
        return GaussianMixture(self.mean, self.log_std, self.logits).sample(num_samples)

    def extra_repr(self) -> str:
        return f"num_components={self.mean.shape[0]}, latent_dim={self.mean.shape[1]}"


class VampPrior(nn.Module):
    """The average of q(z | u_j) over K pseudo-inputs u_j, which are learned (Tomczak & Welling 2018):
    log p(z) = log sum_j N(z; m(u_j), s(u_j)) - log K, with m and s from the model's encoder of the topmost layer.

    The encoder is part of p(z) then. Its parameters get two gradients, as the bound's own has: that of q(z | x) by the
    estimator, and that of log p(z) at fixed z, which the pseudo-inputs get too, scaled as the decoder's. It runs once
    more for each draw, on K rows. An encoder that takes context cannot serve.

    Args:
        pseudo_inputs: (K, ...), where they start: observations, for example, or what the encoder of the topmost of
            several layers takes, (K, Z). Copied.
        low, high: between which pseudo-inputs are kept, such as 0 and 1 for pixels; without a gradient beyond.
    """

    def __init__(self, pseudo_inputs: Tensor, low: float | None = None, high: float | None = None) -> None:
        super().__init__()
        checks.floating(pseudo_inputs=pseudo_inputs)
        if pseudo_inputs.dim() < 2 or not len(pseudo_inputs):
            raise ValueError(
                f"pseudo_inputs must be (K, ...) with K >= 1, as the encoder takes, got {tuple(pseudo_inputs.shape)}"
            )
        self.pseudo_inputs = nn.Parameter(pseudo_inputs.detach().clone())
        self.low, self.high = low, high

    def mixture(self, encoder: Callable[[Tensor], Any]) -> GaussianMixture:
        """p(z), with the encoder (pseudo-inputs -> mean, log_std) as it is now."""
        pseudo_inputs: Tensor = self.pseudo_inputs
        if self.low is not None or self.high is not None:
            pseudo_inputs = pseudo_inputs.clamp(self.low, self.high)
        return GaussianMixture(*encoder(pseudo_inputs))

    def extra_repr(self) -> str:
        return f"{tuple(self.pseudo_inputs.shape)}, low={self.low}, high={self.high}"


class DistributionPrior(Prior):
    """A torch.distributions object over z, (Z,), as its batch or its event axis. Its tensors are constants: they do not
    follow ``model.to(...)``. Its support is its own, and must be that of q(z | x)."""

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        shape = (*distribution.batch_shape, *distribution.event_shape)
        if len(shape) != 1:
            raise ValueError(f"prior must be a distribution over z of shape (Z,), got shape {shape} of {distribution}")
        self.distribution = distribution
        self.size = shape[0]
        self.region = region_of(distribution)
        if self.log_prob(distribution.sample()).requires_grad:
            raise ValueError(
                "prior has parameters that require a gradient, which no optimizer of the model would see: give a "
                "module with log_prob(z) and sample(n), which makes the distribution anew in each call"
            )

    def log_prob(self, z: Tensor) -> Tensor:
        checks.last_axis("z", z, self.size, "the prior")
        # Classes and other whole numbers come as integers, which the formulas of torch.distributions do not all take.
        log_prob = self.distribution.log_prob(z if z.is_floating_point() else z.to(torch.get_default_dtype()))
        return log_prob if self.distribution.event_shape else log_prob.sum(-1)

    def sample(self, num_samples: int) -> Tensor:
        return self.distribution.sample((num_samples,))

    def extra_repr(self) -> str:
        return repr(self.distribution)


def region_of_prior(prior: nn.Module | None) -> Region | None:
    """Return where p(z) has its density; None where a module of the user's does not say."""
    if prior is None or isinstance(prior, VampPrior):
        return REAL
    if isinstance(prior, DistributionPrior):
        return prior.region
    return region_of_constraint(getattr(prior, "support", None))


def as_prior(prior: Any) -> nn.Module | None:
    """A prior as a module; None for the standard normal. TypeError for what is none."""
    if prior is None:
        return None
    if isinstance(prior, Distribution):
        return DistributionPrior(prior)
    if isinstance(prior, VampPrior) or (isinstance(prior, nn.Module) and callable(getattr(prior, "log_prob", None))):
        return prior
    raise TypeError(
        "prior must be None, a torch.distributions object over z or a module with log_prob(z) and sample(n), got "
        + type(prior).__name__
    )
