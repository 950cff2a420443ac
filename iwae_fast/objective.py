"""The objective: a bound, a gradient estimator and a number of samples, ready to train a model."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import checks
from .bounds import Bound
from .functional import normalized_weights
from .models import VAE
from .reference import effective_sample_size_of_weights

ESTIMATORS = ("reparameterized",)


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
        estimator: "reparameterized", the gradient of the bound through z = m + s eps (Kingma & Welling 2014,
            Burda, Grosse & Salakhutdinov 2016).
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
        if estimator not in ESTIMATORS:
            raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
        if bound.encoder != "ascend":
            raise ValueError(f"{bound!r} must not train an encoder by ascent (it may {bound.encoder}): not offered yet")
        checks.reduction(reduction)
        self.bound = bound
        self.estimator = estimator
        self.num_samples = checks.positive("num_samples", num_samples)
        self.reduction = reduction
        self.last: Diagnostics | None = None

    def __call__(self, model: VAE, x: Tensor, *, seed: int | Tensor | None = None) -> Tensor:
        """Minus the bound in nats, a scalar (with reduction "none": (B,)), for observations x (B, ...)."""
        log_weights = model.log_weights(x, self.num_samples, seed)
        value = self.bound(log_weights)
        self.last = self._diagnose(value.detach(), log_weights.detach())
        loss = -value
        if self.reduction == "none":
            return loss
        return loss.mean() if self.reduction == "mean" else loss.sum()

    def bind(self, model: VAE) -> BoundObjective:
        """A module whose forward(x) is the loss: what DDP, torch.compile and Lightning wrap."""
        return BoundObjective(self, model)

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
