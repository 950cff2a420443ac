"""The objective: a bound, a gradient estimator and a number of samples, ready to train a model."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import checks, estimators
from .bounds import Bound
from .functional import gaussian_log_prob, normalized_weights
from .models import VAE
from .reference import effective_sample_size_of_weights


class Diagnostics(NamedTuple):
    """What an objective saw at its last call, per observation, without a graph."""

    value: Tensor
    """The bound in nats, (B,)."""
    ess: Tensor
    """Effective sample size of the weights, (B,)."""
    max_weight: Tensor
    """Largest normalised weight, (B,)."""
    num_backward: Tensor
    """Samples that ran backward, (B,)."""


class Objective:
    """``loss = objective(model, x)``: minus the bound, whose gradient is the estimator's.

    Args:
        bound: from :mod:`iwae_fast.bounds`.
        estimator: "reparameterized", "stl" or "dreg" for every bound; "aisle-kl", "aisle-chi2", "rws" or "rws-dreg"
            for IWAE: see :mod:`iwae_fast.estimators`. The value is the bound's with each of them.
        num_samples: k >= 1.
        reduction: "mean" or "sum" over the observations, or "none".

    After a call, :attr:`last` holds its :class:`Diagnostics`.
    """

    def __init__(
        self,
        bound: Bound,
        estimator: str = "reparameterized",
        num_samples: int = 1,
        *,
        reduction: str = "mean",
    ) -> None:
        if not isinstance(bound, Bound):
            raise TypeError(f"bound must be one of iwae_fast.bounds, such as IWAE(), got {bound!r}")
        self._scales = estimators.check(estimator, bound).scales
        checks.reduction(reduction)
        self.bound = bound
        self.estimator = estimator
        self.num_samples = checks.positive("num_samples", num_samples)
        self.reduction = reduction
        self.last: Diagnostics | None = None

    def __call__(self, model: VAE, x: Tensor, *, seed: int | Tensor | None = None) -> Tensor:
        """Minus the bound in nats, a scalar (with reduction "none": (B,)), for observations x (B, ...)."""
        if self.estimator == "reparameterized" and self.bound.for_encoder is self.bound:
            log_weights = model.log_weights(x, self.num_samples, seed)
            value = self.bound(log_weights)  # whose own gradient is the estimator's
        else:
            log_weights, value = self._surrogate(model, x, seed)
        self.last = self._diagnose(value.detach(), log_weights.detach())
        loss = -value
        if self.reduction == "none":
            return loss
        return loss.mean() if self.reduction == "mean" else loss.sum()

    def bind(self, model: VAE) -> BoundObjective:
        """A module whose forward(x) is the loss: what DDP, torch.compile and Lightning wrap."""
        return BoundObjective(self, model)

    def _surrogate(self, model: VAE, x: Tensor, seed: int | Tensor | None) -> tuple[Tensor, Tensor]:
        """The log-weights, and a number that is the bound and whose gradient is the estimator's.

        One backward pass serves both networks: it is seeded with the decoder's scales, and what arrives at z is brought
        to the encoder's.
        """
        mean, log_std = model.encode(x)
        z, log_ratio = model.sample_posterior((mean, log_std), self.num_samples, seed, path_only=True)
        ratio: list[Tensor] = []
        if z.requires_grad:
            z.register_hook(lambda grad: grad * ratio[0].to(grad.dtype)[..., None])
        log_likelihood = model.log_likelihood(x, z)
        with torch.no_grad():
            log_weights = log_likelihood + log_ratio
            value = self.bound(log_weights)
            scales = self._scales(self.bound, log_weights)
            decoder = _at_least(scales.decoder, scales.path)
            ratio.append(torch.where(decoder == 0, 0.0, scales.path / torch.where(decoder == 0, 1.0, decoder)))
        surrogate = _weighted(decoder, log_likelihood) + _weighted(scales.path, log_ratio)
        if scales.score is not None:
            log_q = gaussian_log_prob(z.detach(), mean, log_std, backend=model.backend)
            surrogate = surrogate + _weighted(scales.score, log_q)
        return log_weights, value + (surrogate - surrogate.detach())

    def _diagnose(self, value: Tensor, log_weights: Tensor) -> Diagnostics:
        weights = normalized_weights(log_weights)
        return Diagnostics(
            value=value,
            ess=effective_sample_size_of_weights(weights),
            max_weight=weights.amax(0),
            num_backward=torch.full_like(value, self.num_samples, dtype=torch.int64),
        )

    def __repr__(self) -> str:
        return f"Objective({self.bound!r}, estimator={self.estimator!r}, num_samples={self.num_samples})"


class BoundObjective(nn.Module):
    """An objective and its model as one module."""

    def __init__(self, objective: Objective, model: VAE) -> None:
        super().__init__()
        self.objective = objective
        self.model = model

    def forward(self, x: Tensor, seed: int | Tensor | None = None) -> Tensor:
        return self.objective(self.model, x, seed=seed)


def _at_least(decoder: Tensor, path: Tensor) -> Tensor:
    """The decoder's scales, kept from vanishing where the encoder's do not: their ratio must stay a number."""
    least = 2.0**-24 * path.abs()
    return torch.where(decoder.abs() < least, torch.copysign(least, decoder), decoder)


def _weighted(scales: Tensor, terms: Tensor) -> Tensor:
    """The sum over samples; those of scale 0 count nothing, also where their term is infinite."""
    return torch.where(scales == 0, 0.0, scales * torch.where(scales == 0, 0.0, terms)).sum(0)
