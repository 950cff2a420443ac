"""A variational autoencoder around anybody's encoder and decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..likelihoods import LIKELIHOODS
from ..sampling import sample_gaussian, seed_tensor, standard_normal

LATENT_STREAM = 0
RESAMPLING_STREAM = 2**31 + 1
"""Of the noise that resampling draws by; latent layers count from 0."""


class VAE(nn.Module):
    """p(z) = N(0, I), q(z | x) = N(mean, exp(log_std)^2) from the encoder, p(x | z) from the decoder.

    Args:
        encoder: maps observations (B, ...) to (mean, log_std), each (B, Z).
        decoder: maps latents (N, Z) to the parameters of the likelihood: logits (N, ...) for "bernoulli",
            (mean, log_std), each (N, ...), for "gaussian".
        likelihood: "bernoulli" or "gaussian".
        latent_dim: Z, needed only by :meth:`sample`.
        backend: force a backend of the package by name.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: str = "bernoulli",
        *,
        latent_dim: int | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        if likelihood not in LIKELIHOODS:
            raise ValueError(f"likelihood must be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}")
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = LIKELIHOODS[likelihood]()
        self.latent_dim = latent_dim
        self.backend = backend

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(z | x), each (B, Z)."""
        output = self.encoder(x)
        if not isinstance(output, tuple) or len(output) != 2:
            raise TypeError(f"the encoder must return (mean, log_std), got {type(output).__name__}")
        return output

    def log_weights(
        self,
        x: Tensor,
        num_samples: int,
        seed: int | Tensor | None = None,
        *,
        posterior: tuple[Tensor, Tensor] | None = None,
        sample_offset: int = 0,
        observation_offset: int = 0,
    ) -> Tensor:
        """log p(x, z_i) - log q(z_i | x) for k fresh samples of each observation.

        Args:
            x: observations (B, ...).
            num_samples: k >= 1.
            seed, sample_offset, observation_offset: as in :func:`iwae_fast.sample_gaussian`.
            posterior: what :meth:`encode` returned for x, where it is at hand already.

        Returns:
            (k, B) in nats, differentiable in the networks' parameters by reparameterisation.
        """
        z, log_ratio = self.sample_posterior(
            self.encode(x) if posterior is None else posterior,
            num_samples,
            seed,
            sample_offset=sample_offset,
            observation_offset=observation_offset,
        )
        return self.log_likelihood(x, z) + log_ratio

    def sample_posterior(
        self,
        posterior: tuple[Tensor, Tensor],
        num_samples: int,
        seed: int | Tensor | None = None,
        *,
        path_only: bool = False,
        sample_offset: int = 0,
        observation_offset: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """z (k, B, Z) from q(z | x), and log p(z) - log q(z | x) (k, B): :func:`iwae_fast.sample_gaussian`."""
        return sample_gaussian(
            *posterior,
            num_samples,
            seed,
            path_only,
            sample_offset=sample_offset,
            observation_offset=observation_offset,
            stream=LATENT_STREAM,
            backend=self.backend,
        )

    def noise(
        self, shape: tuple[int, int, int], seed: Tensor, stream: int = LATENT_STREAM, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """The standard normal noise under samples (k, B, Z), float32 or float64, on the seed's device."""
        return standard_normal(shape, seed, stream=stream, dtype=dtype, device=seed.device, backend=self.backend)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z) in nats, (k, B), of observations (B, ...) under latents (k, B, Z)."""
        return self.likelihood.log_prob(x, self.decoder(z.flatten(0, 1)), len(z), self.backend)

    @torch.no_grad()
    def sample_implicit_posterior(self, x: Tensor, num_samples: int, seed: int | Tensor | None = None) -> Tensor:
        """A draw of z for each observation, (B, Z), from what IWAE with k samples fits to the posterior.

        Sampling-importance-resampling: k draws from q(z | x), of which one is taken by its weight. With k it goes from
        q to the true posterior (Cremer, Morris & Duvenaud 2017).
        """
        seed = seed_tensor(seed, x.device)
        z, log_ratio = self.sample_posterior(self.encode(x), num_samples, seed)
        log_weights = self.log_likelihood(x, z) + log_ratio
        # The largest of log w_i - log e_i, with e_i exponential, is at i with probability w_i / sum w.
        draws = self.noise((num_samples, len(x), 1), seed, stream=RESAMPLING_STREAM, dtype=torch.float64).squeeze(-1)
        race = log_weights.double() - torch.log(-torch.special.log_ndtr(draws))
        return z.gather(0, race.argmax(0)[None, :, None].expand(1, -1, z.shape[-1])).squeeze(0)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """E[x' | z] at the posterior mean z of each observation, in the shape of ``x``."""
        mean, _ = self.encode(x)
        return self.likelihood.mean(self.decoder(mean)).reshape(x.shape)

    @torch.no_grad()
    def sample(self, num_samples: int, seed: int | Tensor | None = None) -> Tensor:
        """E[x | z] for ``num_samples`` draws of z from the prior, in the shape the decoder gives."""
        if self.latent_dim is None:
            raise ValueError("sample() needs to know the size of z: give latent_dim to VAE(...)")
        parameter = next(self.decoder.parameters(), torch.empty(0))
        shape = (num_samples, 1, self.latent_dim)
        z = standard_normal(shape, seed, stream=LATENT_STREAM, device=parameter.device, backend=self.backend)
        return self.likelihood.mean(self.decoder(z.squeeze(1).to(parameter.dtype)))

    def extra_repr(self) -> str:
        described: dict[str, Any] = {"likelihood": self.likelihood.name, "backend": self.backend}
        return ", ".join(f"{key}={value!r}" for key, value in described.items())
