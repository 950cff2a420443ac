"""The objective: a bound, a gradient estimator and a number of samples, ready to train a model."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.checkpoint import checkpoint

from . import checks, estimators
from .bounds import Bound
from .budgets import to_tolerance, within_budget
from .estimators import Scales
from .functional import gaussian_log_prob, normalized_weights, standard_gaussian_log_prob
from .models import VAE
from .reference import effective_sample_size_of_weights
from .sampling import seed_tensor

CHANGING = (_DropoutNd, _BatchNorm)
"""Layers whose training mode gives other results at every run."""

CHUNK_WITHOUT_A_GRAPH = 50
"""Samples at a time where only their log-weights are wanted, unless chunk_size says otherwise."""

DRAW_STREAM = 2**31
"""Of the noise that a budget draws by; latent layers count from 0."""


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
        budget: how many samples of each observation run backward: the budget - 1 that matter most, and one drawn from
            the rest that stands for all of these. Unbiased; k forward passes without a graph come first.
        tolerance: drop the samples whose scales sum to at most this part of all, such as 1e-7 (rounding) or 1e-3: a
            bias of that size at most. Waits for the device.
        chunk_size: at most so many samples of each observation at a time. Exact, and the memory is that of a chunk; the
            backward pass runs the decoder forward again, so that layers which change between two runs are refused.
        reduction: "mean" or "sum" over the observations, or "none".

    After a call, :attr:`last` holds its :class:`Diagnostics`.
    """

    def __init__(
        self,
        bound: Bound,
        estimator: str = "reparameterized",
        num_samples: int = 1,
        *,
        budget: int | None = None,
        tolerance: float | None = None,
        chunk_size: int | None = None,
        reduction: str = "mean",
    ) -> None:
        if not isinstance(bound, Bound):
            raise TypeError(f"bound must be one of iwae_fast.bounds, such as IWAE(), got {bound!r}")
        self._scales = estimators.check(estimator, bound).scales
        if budget is not None and tolerance is not None:
            raise ValueError("budget and tolerance are two ways to choose samples: give one")
        if tolerance is not None and not 0.0 <= tolerance < 1.0:
            raise ValueError(f"tolerance must be at least 0 and below 1, got {tolerance}")
        self.budget = None if budget is None else checks.positive("budget", budget)
        self.tolerance = tolerance
        self.chunk_size = None if chunk_size is None else checks.positive("chunk_size", chunk_size)
        checks.reduction(reduction)
        self.bound = bound
        self.estimator = estimator
        self.num_samples = checks.positive("num_samples", num_samples)
        self.reduction = reduction
        self.last: Diagnostics | None = None

    def __call__(self, model: VAE, x: Tensor, *, seed: int | Tensor | None = None) -> Tensor:
        """Minus the bound in nats, a scalar (with reduction "none": (B,)), for observations x (B, ...)."""
        ran = torch.full((len(x),), self.num_samples, dtype=torch.int64, device=x.device)
        if self.budget is not None or self.tolerance is not None:
            _refuse_layers_that_change(model)
            log_weights, value, ran = self._chosen_samples(model, x, seed)
        elif self.chunk_size is None and self.estimator == "reparameterized" and self.bound.for_encoder is self.bound:
            log_weights = model.log_weights(x, self.num_samples, seed)
            value = self.bound(log_weights)  # whose own gradient is the estimator's
        else:
            if self.chunk_size is not None:
                _refuse_layers_that_change(model)
            log_weights, value = self._all_samples(model, x, seed)
        self.last = self._diagnose(value.detach(), log_weights.detach(), ran)
        loss = -value
        if self.reduction == "none":
            return loss
        return loss.mean() if self.reduction == "mean" else loss.sum()

    def bind(self, model: VAE) -> BoundObjective:
        """A module whose forward(x) is the loss: what DDP, torch.compile and Lightning wrap."""
        return BoundObjective(self, model)

    def _all_samples(self, model: VAE, x: Tensor, seed: int | Tensor | None) -> tuple[Tensor, Tensor]:
        """The log-weights, and the bound with the estimator's gradient, in one pass over all samples."""
        posterior = model.encode(x)
        seed = seed_tensor(seed, x.device)
        gate = GradientGate()

        def terms(mean: Tensor, log_std: Tensor, first: int, count: int) -> tuple[Tensor, ...]:
            z, log_ratio = model.sample_posterior((mean, log_std), count, seed, path_only=True, sample_offset=first)
            log_q = gaussian_log_prob(z.detach(), mean, log_std, backend=model.backend)
            return model.log_likelihood(x, gate(z, first)), log_ratio, log_q

        step = self.chunk_size or self.num_samples
        parts = []
        for first in range(0, self.num_samples, step):
            arguments = (*posterior, first, min(step, self.num_samples - first))
            # Checkpointed: only the log-weights of a chunk are kept, and its backward pass makes the rest again.
            chunk = (
                terms(*arguments) if step >= self.num_samples else checkpoint(terms, *arguments, use_reentrant=False)
            )
            parts.append(chunk)
        log_likelihood, log_ratio, log_q = (torch.cat(part) for part in zip(*parts, strict=True))
        log_weights = (log_likelihood + log_ratio).detach()
        value, scales = self._scaled(log_weights)
        return log_weights, _with_gradient(value, scales, gate, log_likelihood, log_ratio, log_q)

    def _chosen_samples(self, model: VAE, x: Tensor, seed: int | Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Weights first, gradient second: all samples without a graph, then those that matter with one."""
        posterior = mean, log_std = model.encode(x)
        fixed = mean.detach(), log_std.detach()
        seed = seed_tensor(seed, x.device)
        step = self.chunk_size or CHUNK_WITHOUT_A_GRAPH
        with torch.no_grad():
            log_weights = torch.cat(
                [
                    model.log_weights(
                        x, min(step, self.num_samples - first), seed, posterior=fixed, sample_offset=first
                    )
                    for first in range(0, self.num_samples, step)
                ]
            )
            value, scales = self._scaled(log_weights)
            if self.budget is not None:
                uniform = model.noise((self.num_samples, len(x), 1), seed, stream=DRAW_STREAM).squeeze(-1)
                exponential = -torch.special.log_ndtr(uniform)
                selection = within_budget(scales, self.budget, exponential)
            else:
                selection = to_tolerance(scales, self.tolerance or 0.0)
            noise = model.noise((self.num_samples, *mean.shape), seed, dtype=log_weights.dtype)
            eps = noise.gather(0, selection.samples[..., None].expand(-1, -1, mean.shape[1]))
        gate = GradientGate()
        z = mean + torch.exp(log_std) * eps
        log_likelihood = model.log_likelihood(x, gate(z, 0))
        log_ratio = standard_gaussian_log_prob(z, backend=model.backend) - gaussian_log_prob(
            z, *fixed, backend=model.backend
        )
        log_q = gaussian_log_prob(z.detach(), *posterior, backend=model.backend)
        value = _with_gradient(value, selection.scales, gate, log_likelihood, log_ratio, log_q)
        return log_weights, value, selection.num_used

    @torch.no_grad()
    def _scaled(self, log_weights: Tensor) -> tuple[Tensor, Scales]:
        return self.bound(log_weights), self._scales(self.bound, log_weights)

    def _diagnose(self, value: Tensor, log_weights: Tensor, num_backward: Tensor) -> Diagnostics:
        weights = normalized_weights(log_weights)
        return Diagnostics(
            value=value,
            ess=effective_sample_size_of_weights(weights),
            max_weight=weights.amax(0),
            num_backward=num_backward,
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


class GradientGate:
    """Multiplies the gradient that arrives at z by a ratio (k, B) that is known only when z has been used.

    So one backward pass serves both networks: it is seeded with the decoder's scales, and what arrives at z is brought
    to the encoder's.
    """

    ratio: Tensor

    def __call__(self, z: Tensor, first: int) -> Tensor:
        """z itself, of samples from ``first`` on, as the decoder is to see it."""
        if not z.requires_grad:
            return z
        seen = z.view_as(z)
        seen.register_hook(lambda grad: grad * self.ratio[first : first + len(grad), :, None].to(grad.dtype))
        return seen


def _with_gradient(
    value: Tensor, scales: Scales, gate: GradientGate, log_likelihood: Tensor, log_ratio: Tensor, log_q: Tensor
) -> Tensor:
    """The value, with the gradient that the scales make of the terms of each sample."""
    decoder = _at_least(scales.decoder, scales.path)
    gate.ratio = torch.where(decoder == 0, 0.0, scales.path / torch.where(decoder == 0, 1.0, decoder))
    surrogate = _weighted(decoder, log_likelihood) + _weighted(scales.path, log_ratio)
    if scales.score is not None:
        surrogate = surrogate + _weighted(scales.score, log_q)
    return value + (surrogate - surrogate.detach())


def _refuse_layers_that_change(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if module.training and isinstance(module, CHANGING):
            raise ValueError(
                f"{name} ({type(module).__name__}) gives other results when it runs again, which a budget, a tolerance "
                "or chunks need: put it in eval() mode or use all samples at once"
            )


def _at_least(decoder: Tensor, path: Tensor) -> Tensor:
    """The decoder's scales, kept from vanishing where the encoder's do not: their ratio must stay a number."""
    least = 2.0**-24 * path.abs()
    return torch.where(decoder.abs() < least, torch.copysign(least, decoder), decoder)


def _weighted(scales: Tensor, terms: Tensor) -> Tensor:
    """The sum over samples; those of scale 0 count nothing, also where their term is infinite."""
    return torch.where(scales == 0, 0.0, scales * torch.where(scales == 0, 0.0, terms)).sum(0)
