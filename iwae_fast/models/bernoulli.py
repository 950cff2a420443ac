"""A variational autoencoder with binary latents, which are not reparameterized."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..likelihoods import Likelihood
from ..ops.densities import bernoulli_log_prob
from ..ops.samples import standard_normal
from .base import Draw, Latents, LatentVariableModel, LogQGradient, Posterior, RouteZ


class BernoulliVAE(LatentVariableModel):
    """A model with z in {0, 1}^Z: p(z) Bernoulli with learned logits, q(z | x) Bernoulli with logits from the encoder.

    It requires an estimator that does not differentiate through z: "vimco" (Mnih & Rezende 2016) or "rws" (Bornschein &
    Bengio 2015).

    Args:
        encoder: maps observations (B, ...), and context if any, to logits (B, Z).
        decoder: maps latents (N, Z), and context of N rows, to the parameters of the likelihood, as for
            :class:`iwae_fast.models.VAE`.
        likelihood: a name from :data:`iwae_fast.likelihoods.LIKELIHOODS`, or a likelihood.
        latent_dim: Z.
        backend: force a backend of the package by name.
    """

    reparameterized = False

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: str | Likelihood = "bernoulli",
        *,
        latent_dim: int,
        backend: str | None = None,
    ) -> None:
        super().__init__(encoder, decoder, likelihood, backend)
        self.latent_dim = checks.positive("latent_dim", latent_dim)
        self.prior_logits = nn.Parameter(torch.zeros(latent_dim))

    def posterior(self, output: Any) -> Posterior:
        """Return the logits of q(z | x), (B, Z), in a tuple of length 1."""
        if not isinstance(output, Tensor):
            raise TypeError(f"the encoder must return logits, a tensor, got {type(output).__name__}")
        if output.dim() != 2 or output.shape[1] != self.latent_dim:
            raise ValueError(f"the encoder's logits must be (B, {self.latent_dim}), got {tuple(output.shape)}")
        return (output,)

    def latents(
        self,
        posterior: Posterior,
        draw: Draw,
        log_q_gradient: LogQGradient = LogQGradient.SCORE,
        route: RouteZ | None = None,
    ) -> Latents:
        (logits,) = posterior
        z = self._sample(logits.detach(), draw)
        log_prior = bernoulli_log_prob(z, self.prior_logits, backend=self.backend)
        return Latents(z, log_prior, -bernoulli_log_prob(z, logits, backend=self.backend))

    def _sample(self, logits: Tensor, draw: Draw) -> Tensor:
        """Draw z (k, B, Z): 1 where the normal noise, mapped to a uniform number, is below the probability."""
        seed, num_samples, sample_offset, observation_offset, samples = draw
        noise = standard_normal(
            (num_samples, *logits.shape),
            seed,
            sample_offset=sample_offset,
            observation_offset=observation_offset,
            sample_indices=samples,
            device=logits.device,
            backend=self.backend,
        )
        # In half precision a probability near 1 would round to 1.
        probability = torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        return (torch.special.ndtr(noise) < probability).to(logits.dtype)

    def mean_of(self, posterior: Posterior) -> Tensor:
        return torch.sigmoid(posterior[0])

    @torch.no_grad()
    def prior_draws(self, num_samples: int, seed: int | Tensor | None) -> Tensor:
        noise = standard_normal(
            (num_samples, 1, self.latent_dim), seed, device=self.prior_logits.device, backend=self.backend
        )
        return (torch.special.ndtr(noise.squeeze(1)) < torch.sigmoid(self.prior_logits)).to(self.prior_logits.dtype)
