"""An autoencoder with random network weights: IWAER and IWAER-rec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import checks
from ..deprecation import context_of
from ..modules import as_parameters
from ..ops.densities import standard_gaussian_log_prob
from ..ops.samples import seed_tensor, standard_normal
from .base import LatentVariableModel
from .completion import Completions
from .dense import DenseDecoder, glorot, start_at_mean
from .draw import Draw, noise_dtype
from .encoding import observed_features, visible
from .posteriors import DiagonalGaussian
from .random_network import Noise, RandomNetwork
from .terms import Latents, LogQGradient, RouteZ

RANDOM = ("all", "encoder")
DRAWS = ("local", "shared")

ENCODER_STREAM, DECODER_STREAM = 2**30, 2**30 + 2**29
"""Streams of the noise for the first layer's weights; further layers add their index. The streams of latent layers
count from 0."""


class EncoderInput(NamedTuple):
    """Observations as the encoder takes them. They take the place of the parameters of q(z | x), which differ between
    draws of the weights."""

    x: Tensor
    """(B, D)."""

    def detach(self) -> EncoderInput:
        return EncoderInput(self.x.detach())


class RandomWeightsVAE(LatentVariableModel):
    """The IWAER model: each of the k samples draws new network weights and then z.

    The objective is E log (1/k) sum_j p(x | z_j, theta_j) p(z_j) / q(z_j | x, phi_j) with theta_j ~ q(theta) and
    phi_j ~ q(phi). Every weight and bias is an independent Gaussian whose mean and standard deviation are learned (IWAE
    with random weights, after Hernandez-Lobato et al.); there is no prior on them. The networks have dense tanh layers,
    and the pixels are Bernoulli.

    An :class:`iwae_fast.Objective` trains it with the ELBO, IWAE, VR-IWAE with 0 <= alpha < 1, MIWAE, CIWAE or PIWAE.

    Args:
        data_dim: D.
        latent_dim: Z.
        hidden_dims: sizes of the encoder's hidden layers, which the decoder mirrors.
        random: "all" for random weights in both networks (IWAER), "encoder" for the encoder only (IWAER-rec).
        draws: "shared" draws weights per sample, the same for all observations of a call, as in the definition above.
            "local" draws independently per observation, by drawing the output of each layer (the local
            reparameterization of Kingma, Salimans & Welling 2015): every log-weight has the same distribution and the
            objective the same value, and its gradient has less variance. A budget or tolerance needs "local".
        log_std: initial value of the weights' log standard deviations.
        data_mean: (D,) mean of the training data in [0, 1], for the output bias.
        backend: force a backend of the package by name.
    """

    random_weights = True
    encoder: RandomNetwork

    def __init__(
        self,
        data_dim: int,
        latent_dim: int = 20,
        hidden_dims: Sequence[int] = (400,),
        *,
        random: str = "all",
        draws: str = "local",
        log_std: float = -5.0,
        data_mean: Tensor | None = None,
        backend: str | None = None,
    ) -> None:
        if random not in RANDOM:
            raise ValueError(f"random must be one of {', '.join(RANDOM)}, got {random!r}")
        if draws not in DRAWS:
            raise ValueError(f"draws must be one of {', '.join(DRAWS)}, got {draws!r}")
        hidden_dims = tuple(hidden_dims)
        for name, sizes in (("data_dim", (data_dim,)), ("latent_dim", (latent_dim,)), ("hidden_dims", hidden_dims)):
            for size in sizes:
                checks.positive(name, size)
        local = draws == "local"
        down = hidden_dims[::-1]
        encoder = RandomNetwork((data_dim, *hidden_dims, 2 * latent_dim), local, log_std)
        decoder: RandomNetwork | DenseDecoder
        if random == "all":
            decoder = RandomNetwork((latent_dim, *down, data_dim), local, log_std)
            output_bias = decoder.output.bias_mean
        else:
            decoder = DenseDecoder(latent_dim, down, data_dim)
            glorot(decoder)
            output_bias = decoder.output.bias
        super().__init__(encoder, decoder, "bernoulli", backend)
        start_at_mean(self.likelihood, data_dim, data_mean, lambda _: output_bias)
        self.data_dim: int = data_dim
        self.latent_dim: int = latent_dim
        self.hidden_dims: tuple[int, ...] = hidden_dims
        self.random: str = random
        self.local: bool = local

    def encode(
        self, x: Tensor, *positional: Tensor, context: Sequence[Tensor] = (), mask: Tensor | None = None
    ) -> EncoderInput:
        """Return the encoder's input, (B, D): the parameters of q(z | x) differ between draws of the weights."""
        context = context_of(positional, context)
        self.check_batch(x, context)
        if context:
            raise ValueError(f"{type(self).__name__} does not take context, got a context of length {len(context)}")
        if x.dim() < 2 or x.shape[1:].numel() != self.data_dim:
            raise ValueError(f"x must be (B, ...) with {self.data_dim} features, got {tuple(x.shape)}")
        return EncoderInput(as_parameters(self.encoder, visible(x, mask).flatten(1)))

    def posterior(self, output: Any) -> EncoderInput:
        if not isinstance(output, EncoderInput):
            raise TypeError(f"the posterior must be the result of encode(x), got {type(output).__name__}")
        return output

    def latents(
        self,
        posterior: EncoderInput,
        draw: Draw,
        log_q_gradient: LogQGradient = LogQGradient.FULL,
        route: RouteZ | None = None,
    ) -> Latents:
        weight_noise = self._weight_noise(posterior.x, draw, ENCODER_STREAM)
        q = _gaussian(self.encoder(posterior.x, weight_noise, draw.num_samples))
        z = q.draw(draw, self.backend)
        log_ratio = standard_gaussian_log_prob(z, backend=self.backend) - q.log_q(z, log_q_gradient, self.backend)
        if route is not None:
            z, _, _ = route(z)
        return Latents(z, None, log_ratio)

    def _log_likelihood_of(
        self, draw: Draw, x: Tensor, z: Tensor, *, context: Sequence[Tensor], mask: Tensor | None
    ) -> Tensor:
        if not isinstance(self.decoder, RandomNetwork):
            return super()._log_likelihood_of(draw, x, z, context=context, mask=mask)
        observed = None if mask is None else observed_features(mask, x).flatten(1)
        return self.likelihood.log_prob(x, self.decoded(z, draw), draw.num_samples, observed, self.backend)

    def decoded(self, z: Tensor, draw: Draw, context: Sequence[Tensor] = ()) -> Tensor:
        if not isinstance(self.decoder, RandomNetwork):
            return super().decoded(z, draw, context)
        return self.decoder(z, self._weight_noise(z, draw, DECODER_STREAM), draw.num_samples).flatten(0, 1)

    def completions(
        self, x: Tensor, posterior: EncoderInput, draw: Draw, *, context: Sequence[Tensor] = (), mask: Tensor
    ) -> Completions:
        """Return samples whose particles are the probabilities of the pixels: z alone does not give the weights."""
        found = super().completions(x, posterior, draw, context=context, mask=mask)
        return found._replace(particles=found.expectations)

    def completed(self, particles: Tensor, generator: torch.Generator, context: Sequence[Tensor] = ()) -> Tensor:
        return torch.bernoulli(particles, generator=generator)

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {}  # each call gets the noise of its weights as a function, which a compiler cannot trace

    @property
    def takes_sample_indices(self) -> bool:
        return self.local

    def _weight_noise(self, like: Tensor, draw: Draw, stream: int) -> Noise:
        """Return the noise with which the layers of a network draw their weights, or their outputs."""
        if self.local:
            return lambda layer, shape: self._noise(like, draw, shape, stream + layer)
        if draw.samples is not None:
            raise ValueError(
                "a budget or tolerance selects different samples per observation, which shared draws of the weights do "
                "not allow: make the model with draws='local'"
            )
        # The rows are those of a weight matrix, so that every shard of a batch draws the same weights.
        return lambda layer, shape: self._noise(like, draw._replace(observation_offset=0), shape, stream + layer)

    def _noise(self, like: Tensor, draw: Draw, shape: Sequence[int], stream: int) -> Tensor:
        dtype, device = noise_dtype(like.dtype), like.device
        return draw.noise(shape[1:], dtype=dtype, device=device, stream=stream, backend=self.backend)

    def mean_of(self, posterior: EncoderInput) -> Tensor:
        """Return E[z] under q(z | x) at the means of the weights, (B, Z)."""
        return _gaussian(self.encoder(posterior.x)).mean

    @torch.no_grad()
    def prior_draws(self, num_samples: int, seed: int | Tensor | None) -> Tensor:
        device = next(self.decoder.parameters()).device
        shape = (num_samples, 1, self.latent_dim)
        return standard_normal(shape, seed_tensor(seed, device), device=device, backend=self.backend).squeeze(1)


def _gaussian(output: Tensor) -> DiagonalGaussian:
    """Return q(z | x) from the encoder's output, (..., 2 Z)."""
    return DiagonalGaussian(*output.chunk(2, dim=-1))
