"""A variational autoencoder with binary latents, which are not reparameterized."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import checks
from ..likelihoods import Likelihood
from ..ops.densities import bernoulli_log_prob
from ..ops.samples import standard_normal
from .base import LatentVariableModel
from .draw import Draw
from .terms import Latents, LogQGradient, RouteZ


class BernoulliPosterior(NamedTuple):
    """Independent Bernoulli variables, q(z | x) of B observations."""

    logits: Tensor
    """(B, Z)."""

    @property
    def mean(self) -> Tensor:
        """E[z], (B, Z)."""
        return torch.sigmoid(self.logits)

    def detach(self) -> BernoulliPosterior:
        return BernoulliPosterior(self.logits.detach())

    def draw(self, draw: Draw, backend: str | None) -> Tensor:
        """Draw z (k, B, Z): 1 where the normal noise, mapped to a uniform number, is below the probability."""
        logits = self.logits
        noise = draw.noise(logits.shape, dtype=torch.float32, device=logits.device, backend=backend)
        # In half precision a probability near 1 would round to 1.
        probability = torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        return (torch.special.ndtr(noise) < probability).to(logits.dtype)


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
        self.latent_dim: int = checks.positive("latent_dim", latent_dim)
        self.prior_logits: nn.Parameter = nn.Parameter(torch.zeros(latent_dim))

    def posterior(self, output: Any) -> BernoulliPosterior:
        """Return q(z | x), which unpacks to its logits, (B, Z)."""
        if isinstance(output, BernoulliPosterior):
            return output
        if not isinstance(output, Tensor):
            raise TypeError(f"the encoder must return logits, a tensor, got {type(output).__name__}")
        if output.dim() != 2 or output.shape[1] != self.latent_dim:
            raise ValueError(f"the encoder's logits must be (B, {self.latent_dim}), got {tuple(output.shape)}")
        return BernoulliPosterior(output)

    def latents(
        self,
        posterior: BernoulliPosterior,
        draw: Draw,
        log_q_gradient: LogQGradient = LogQGradient.SCORE,
        route: RouteZ | None = None,
    ) -> Latents:
        z = posterior.detach().draw(draw, self.backend)
        log_prior = bernoulli_log_prob(z, self.prior_logits, backend=self.backend)
        return Latents(z, log_prior, -bernoulli_log_prob(z, posterior.logits, backend=self.backend))

    def mean_of(self, posterior: BernoulliPosterior) -> Tensor:
        return posterior.mean

    @torch.no_grad()
    def prior_draws(self, num_samples: int, seed: int | Tensor | None) -> Tensor:
        noise = standard_normal(
            (num_samples, 1, self.latent_dim), seed, device=self.prior_logits.device, backend=self.backend
        )
        return (torch.special.ndtr(noise.squeeze(1)) < torch.sigmoid(self.prior_logits)).to(self.prior_logits.dtype)
