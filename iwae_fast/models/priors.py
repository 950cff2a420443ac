"""Priors p(z) of the topmost latents, as alternatives to the standard normal."""

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
    """The base class of priors p(z).

    Parameters of a prior are parameters of the model and ascend the decoder's objective: p(x, z) is one density. Any
    ``nn.Module`` with these two methods can be used as well. If it has a :attr:`support`, that is checked.
    """

    support: constraints.Constraint | None = None
    """The support of p(z), which must be that of q(z | x); None if unspecified, in which case it is not checked."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z) in nats, (...), for z (..., Z); differentiable in z and in the prior's parameters."""

    @abstractmethod
    def sample(self, num_samples: int) -> Tensor:
        """Draw z ~ p(z), (num_samples, Z), with torch's global generator, which the model seeds."""


class GaussianMixture(NamedTuple):
    """A mixture of diagonal Gaussians."""

    mean: Tensor
    """(K, Z)."""
    log_std: Tensor
    """(K, Z)."""
    logits: Tensor | None = None
    """Logits of the components' weights, (K,); equal weights if None."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log sum_j w_j N(z; m_j, s_j), (...), for z (..., Z)."""
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

    Means are initialized with draws of a standard normal, standard deviations with 1, and weights are equal.

    Args:
        num_components: K.
        latent_dim: Z, the size of the topmost layer.
    """

    support: constraints.Constraint = constraints.real_vector

    def __init__(self, num_components: int, latent_dim: int) -> None:
        super().__init__()
        shape = (checks.positive("num_components", num_components), checks.positive("latent_dim", latent_dim))
        self.mean: nn.Parameter = nn.Parameter(torch.randn(shape))
        self.log_std: nn.Parameter = nn.Parameter(torch.zeros(shape))
        self.logits: nn.Parameter = nn.Parameter(torch.zeros(num_components))

    def log_prob(self, z: Tensor) -> Tensor:
        return GaussianMixture(self.mean, self.log_std, self.logits).log_prob(z)

    def sample(self, num_samples: int) -> Tensor:
        return GaussianMixture(self.mean, self.log_std, self.logits).sample(num_samples)

    def extra_repr(self) -> str:
        return f"num_components={self.mean.shape[0]}, latent_dim={self.mean.shape[1]}"


class VampPrior(nn.Module):
    """The average of q(z | u_j) over K pseudo-inputs u_j, which are learned (Tomczak & Welling 2018):
    log p(z) = log sum_j N(z; m(u_j), s(u_j)) - log K, with m and s from the model's encoder of the topmost layer.

    The encoder is then part of p(z). Its parameters get the sum of two gradients, like those of the bound: that of
    q(z | x) from the estimator, and that of log p(z) at fixed z, scaled as the decoder's. The pseudo-inputs get the
    second one. The encoder runs once more per draw, on K rows. It must not take context.

    Args:
        pseudo_inputs: (K, ...), the initial pseudo-inputs: observations, for example, or inputs of the topmost
            encoder if there are several layers, (K, Z). Copied.
        low, high: the range to which pseudo-inputs are clamped, such as 0 and 1 for pixels; the gradient is zero
            outside.
    """

    def __init__(self, pseudo_inputs: Tensor, low: float | None = None, high: float | None = None) -> None:
        super().__init__()
        checks.floating(pseudo_inputs=pseudo_inputs)
        if pseudo_inputs.dim() < 2 or not len(pseudo_inputs):
            raise ValueError(
                f"pseudo_inputs must be inputs of the encoder, (K, ...) with K >= 1, got {tuple(pseudo_inputs.shape)}"
            )
        self.pseudo_inputs: nn.Parameter = nn.Parameter(pseudo_inputs.detach().clone())
        self.low: float | None = low
        self.high: float | None = high

    def mixture(self, encoder: Callable[[Tensor], Any]) -> GaussianMixture:
        """Return p(z) for the current parameters of the encoder (pseudo-inputs -> mean, log_std)."""
        pseudo_inputs: Tensor = self.pseudo_inputs
        if self.low is not None or self.high is not None:
            pseudo_inputs = pseudo_inputs.clamp(self.low, self.high)
        return GaussianMixture(*encoder(pseudo_inputs))

    def extra_repr(self) -> str:
        return f"{tuple(self.pseudo_inputs.shape)}, low={self.low}, high={self.high}"


class DistributionPrior(Prior):
    """A prior from a torch.distributions object over z, (Z,), with Z as its batch or its event axis.

    The distribution's tensors are constants: they do not follow ``model.to(...)``. Its support must be that of
    q(z | x).
    """

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        shape = (*distribution.batch_shape, *distribution.event_shape)
        if len(shape) != 1:
            raise ValueError(f"prior must be a distribution over z of shape (Z,), got shape {shape} of {distribution}")
        self.distribution = distribution
        self.size: int = shape[0]
        self.region: Region | None = region_of(distribution)
        if self.log_prob(distribution.sample()).requires_grad:
            raise ValueError(
                "prior has parameters that require a gradient, but an optimizer of the model would not see them: give "
                "a module with log_prob(z) and sample(n) that builds the distribution in each call"
            )

    def log_prob(self, z: Tensor) -> Tensor:
        checks.last_axis("z", z, self.size, "the prior")
        # Discrete z may have an integer dtype, which not every torch.distributions formula supports.
        log_prob = self.distribution.log_prob(z if z.is_floating_point() else z.to(torch.get_default_dtype()))
        return log_prob if self.distribution.event_shape else log_prob.sum(-1)

    def sample(self, num_samples: int) -> Tensor:
        return self.distribution.sample((num_samples,))

    def extra_repr(self) -> str:
        return repr(self.distribution)


def region_of_prior(prior: nn.Module | None) -> Region | None:
    """Return the support of p(z); None if a user-defined module does not specify it."""
    if prior is None or isinstance(prior, VampPrior):
        return REAL
    if isinstance(prior, DistributionPrior):
        return prior.region
    return region_of_constraint(getattr(prior, "support", None))


def as_prior(prior: Any) -> nn.Module | None:
    """Return a prior as a module, or None for the standard normal; raise TypeError for anything else."""
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
