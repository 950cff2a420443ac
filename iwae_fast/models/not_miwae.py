"""A model of observations and of which of their features are missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ..likelihoods import Likelihood
from ..modules import as_parameters
from ..ops.densities import bernoulli_log_prob
from .completion import IMPUTATION_STREAM, Completions
from .draw import Draw, noise_dtype
from .encoding import observed_features
from .posteriors import LatentPosterior
from .terms import LogQGradient, RouteZ, Terms
from .vae import VAE


class NotMIWAE(VAE):
    """A VAE with p(mask | x), for features that are missing not at random: not-MIWAE (Ipsen, Mattei & Frellsen 2021).

    The log-weights are log p(x_observed | z) + log p(mask | x_observed, x_missing) + log p(z) - log q(z | x_observed),
    with x_missing drawn from p(x_missing | z) in each sample. With it, bounds are on log p(x_observed, mask) and
    :func:`iwae_fast.evaluate.log_likelihood` estimates that; :meth:`impute` weights the draws of x_missing. Without a
    mask all features count as observed. Gradients flow through the draws of x_missing, so the likelihood must be a
    Gaussian one.

    Args:
        encoder, decoder, likelihood, upper, prior, latent_dim, validate, backend: as for :class:`iwae_fast.models.VAE`.
        mechanism: a module from x (..., D) to the logits of being observed (..., D):
            :class:`iwae_fast.models.SelfMasking`, :class:`iwae_fast.models.GeneralMasking`, or your own. It gets the
            decoder's gradient.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        mechanism: nn.Module,
        likelihood: str | Likelihood = "gaussian",
        *,
        upper: Sequence[tuple[nn.Module, nn.Module]] = (),
        prior: nn.Module | Distribution | None = None,
        latent_dim: int | None = None,
        validate: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(
            encoder,
            decoder,
            likelihood,
            upper=upper,
            prior=prior,
            latent_dim=latent_dim,
            validate=validate,
            backend=backend,
        )
        self.mechanism = mechanism

    @classmethod
    def of(cls, model: VAE, mechanism: nn.Module) -> NotMIWAE:
        """Return a model with the networks, the likelihood and the prior of another one, which it shares with it."""
        upper = [(layer.encoder, layer.prior) for layer in model.upper]
        return cls(
            model.encoder,
            model.decoder,
            mechanism,
            model.likelihood,
            upper=upper,  # type: ignore[arg-type]
            prior=model.prior,
            latent_dim=model.latent_dim,
            validate=model.validate,
            backend=model.backend,
        )

    def terms(
        self,
        x: Tensor,
        posterior: LatentPosterior,
        draw: Draw,
        *,
        context: Sequence[Tensor] = (),
        mask: Tensor | None = None,
        log_q_gradient: LogQGradient = LogQGradient.FULL,
        route: RouteZ | None = None,
    ) -> tuple[Tensor, Terms]:
        z, log_prior, log_ratio = self.latents(posterior, draw, log_q_gradient, route)
        log_likelihood, _ = self._joint(x, self.decoded(z, draw, context), draw, mask)
        return z, Terms(log_likelihood, log_prior, log_ratio)

    def _joint(self, x: Tensor, output: Any, draw: Draw, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return log p(x_observed | z) + log p(mask | x), (k, B), and x with drawn missing features, (k, B, D)."""
        flat = x.flatten(1)
        if mask is None:
            observed, shown = None, torch.ones_like(flat, dtype=torch.bool)
        else:
            observed = shown = observed_features(mask, x).flatten(1)
        log_likelihood = self.likelihood.log_prob(x, output, draw.num_samples, observed, self.backend)
        noise = draw.noise(
            flat.shape,
            dtype=noise_dtype(flat.dtype),
            device=flat.device,
            stream=IMPUTATION_STREAM,
            backend=self.backend,
        )
        drawn = self.likelihood.reparameterized(output, noise.flatten(0, 1)).unflatten(0, noise.shape[:2])
        whole = torch.where(shown, flat, drawn)
        logits = self.mechanism(as_parameters(self.mechanism, whole))
        return log_likelihood + bernoulli_log_prob(shown.to(logits.dtype), logits, backend=self.backend), whole

    def log_likelihood(
        self, x: Tensor, z: Tensor, *, context: Sequence[Tensor] = (), mask: Tensor | None = None
    ) -> Tensor:
        """Raise ValueError: log p(x_observed, mask | z) has no closed form."""
        raise ValueError("log p(x, mask | z) of NotMIWAE has no closed form: use log_weights, or an objective")

    def completions(
        self, x: Tensor, posterior: LatentPosterior, draw: Draw, *, context: Sequence[Tensor] = (), mask: Tensor
    ) -> Completions:
        """Return samples whose particles are x with drawn missing features, which their weights depend on."""
        z, log_prior, log_ratio = self.latents(posterior, draw)
        log_likelihood, whole = self._joint(x, self.decoded(z, draw, context), draw, mask)
        return Completions(Terms(log_likelihood, log_prior, log_ratio).log_weights(), whole, whole)

    def completed(self, particles: Tensor, generator: torch.Generator, context: Sequence[Tensor] = ()) -> Tensor:
        return particles
