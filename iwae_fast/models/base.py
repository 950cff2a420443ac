"""What every model offers an objective: draws of its latents, and the parts of their log-weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from .. import checks
from ..likelihoods import Likelihood, LinearLayer, as_likelihood
from ..linear import LinearIWAE, linear_bernoulli_iwae
from ..sampling import seed_tensor, standard_normal

RESAMPLING_STREAM = 2**31 + 1
"""Of the noise that resampling draws by; latent layers count from 0."""

Posterior = tuple[Any, ...]
"""What an encoder says of q(z | x): tensors (B, Z), or one :class:`iwae_fast.models.posteriors.SampledPosterior`."""


class Density(Enum):
    """Through what the gradient of log q(z | x) goes to the encoder."""

    WHOLE = "z and the encoder's parameters"
    PATH = "z alone: the parameters are held fixed inside log q"
    SCORE = "the parameters alone: z is held fixed"


class Draw(NamedTuple):
    """Which samples of z: their noise is a function of the seed and these indices."""

    seed: Tensor
    """int64 scalar on the model's device."""
    num_samples: int
    """k."""
    sample_offset: int = 0
    observation_offset: int = 0
    """Global index of the first sample and observation, so that chunks and shards draw what the whole would draw."""
    samples: Tensor | None = None
    """(k, B) int64: the index of each sample, in place of those from sample_offset on."""


class Latents(NamedTuple):
    """A draw of z, and log p(z) - log q(z | x) in parts, each (k, B) in nats."""

    z: Tensor
    """(k, B, Z), as the decoder sees it."""
    log_prior: Tensor | None
    """The part of log p(z) that is of the decoder's side, since it has parameters or is the user's; None where there is
    none."""
    log_ratio: Tensor
    """The rest of log p(z), less log q(z | x): its gradient is the encoder's alone."""


class Terms(NamedTuple):
    """The parts of log w = log p(x | z) + log p(z) - log q(z | x), each (k, B) in nats."""

    log_likelihood: Tensor
    """log p(x | z)."""
    log_prior: Tensor | None
    log_ratio: Tensor
    """As of :class:`Latents`."""

    def log_weights(self, kl_weight: float = 1.0) -> Tensor:
        """log p(x | z) + kl_weight (log p(z) - log q(z | x)), (k, B)."""
        return self.log_likelihood + weighed(self.log_prior, self.log_ratio, kl_weight)


def weighed(log_prior: Tensor | None, log_ratio: Tensor, kl_weight: float) -> Tensor:
    """kl_weight (log p(z) - log q(z | x)), (k, B)."""
    whole = log_ratio if log_prior is None else log_prior + log_ratio
    return whole if kl_weight == 1.0 else kl_weight * whole


class Passage(Protocol):
    """How z goes from the encoder to the densities: see :class:`iwae_fast.junction.Junction`."""

    doubly: bool

    def __call__(self, z: Tensor, from_prior: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]: ...


class LatentVariableModel(nn.Module, ABC):
    """p(z), p(x | z) from the decoder, q(z | x) from the encoder.

    A subclass says what the latents are: it defines :meth:`posterior`, :meth:`latents`, :meth:`prior_draws`,
    :meth:`posterior_mean` and, where there is one, :meth:`kl_by_dimension`.
    """

    reparameterized = True
    """Whether a gradient goes through z to the encoder."""
    learned_prior = False
    """Whether there are priors between layers, whose latents could be drawn by their reparameterisation."""
    random_weights = False
    """Whether each sample has its own draw of network weights, whose distribution is learned."""

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, likelihood: str | Likelihood, backend: str | None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = as_likelihood(likelihood)
        self.backend = backend

    @property
    def linear_decoder(self) -> LinearOutput | None:
        """The decoder, where its last layer and the likelihood may be taken in one."""
        decoder = self.decoder
        if not (self.likelihood.takes_linear_output and isinstance(decoder, LinearOutput)):
            return None
        return None if _has_hooks(decoder) or _has_hooks(decoder.output) else decoder

    def encode(self, x: Tensor, *context: Tensor, mask: Tensor | None = None) -> Posterior:
        """The parameters of q(z | x) of the first layer, each (B, Z); features that a mask hides are zeros."""
        if mask is not None:
            x = torch.where(observed_features(mask, x), x, 0.0)
        return self.posterior(self.encoder(x, *context))

    @abstractmethod
    def posterior(self, output: Any) -> Posterior:
        """What the encoder returned, checked, as a tuple."""

    @abstractmethod
    def latents(
        self,
        posterior: Posterior,
        draw: Draw,
        density: Density = Density.WHOLE,
        passage: Passage | None = None,
    ) -> Latents:
        """Draw z from q(z | x)."""

    @abstractmethod
    def prior_draws(self, num_samples: int, seed: int | Tensor | None) -> Tensor:
        """z from p(z), (N, Z), as the decoder takes it."""

    @abstractmethod
    def posterior_mean(self, posterior: Posterior) -> Tensor:
        """E[z] under q(z | x), (B, Z)."""

    def layer_means(self, posterior: Posterior, draw: Draw) -> tuple[Tensor, ...]:
        """E[z_l | z_{l-1}] under q for the draws of z_{l-1}, (k, B, Z_l) for each layer; (1, B, Z_1) for the first."""
        return (self.posterior_mean(posterior)[None],)

    def terms(
        self,
        x: Tensor,
        posterior: Posterior,
        draw: Draw,
        *,
        context: Sequence[Tensor] = (),
        mask: Tensor | None = None,
        density: Density = Density.WHOLE,
        passage: Passage | None = None,
    ) -> tuple[Tensor, Terms]:
        """Draw z, (k, B, Z) as the decoder sees it, and the parts of its log-weights."""
        z, log_prior, log_ratio = self.latents(posterior, draw, density, passage)
        return z, Terms(self.log_likelihood(x, z, context=context, mask=mask), log_prior, log_ratio)

    def linear_iwae(
        self,
        decoder: LinearOutput,
        x: Tensor,
        posterior: Posterior,
        draw: Draw,
        kl_weight: float,
        reduction: str,
        *,
        context: Sequence[Tensor] = (),
        mask: Tensor | None = None,
    ) -> LinearIWAE:
        """Minus the IWAE bound, from the last layer of the :attr:`linear_decoder` to the loss in one op."""
        z, log_prior, log_ratio = self.latents(posterior, draw)
        hidden = decoder.features(*self._decoder_inputs(z, context, decoder.output.weight.dtype))
        return linear_bernoulli_iwae(
            x.flatten(1),
            hidden.view(*z.shape[:2], hidden.shape[-1]),
            decoder.output.weight,
            decoder.output.bias,
            weighed(log_prior, log_ratio, kl_weight),
            None if mask is None else observed_features(mask, x).flatten(1),
            reduction,
            backend=self.backend,
        )

    def log_weights(
        self,
        x: Tensor,
        num_samples: int,
        seed: int | Tensor | None = None,
        *,
        context: Sequence[Tensor] = (),
        mask: Tensor | None = None,
        posterior: Posterior | None = None,
        sample_offset: int = 0,
        observation_offset: int = 0,
    ) -> Tensor:
        """log p(x, z_i) - log q(z_i | x) for k fresh samples of each observation.

        Args:
            x: observations (B, ...).
            num_samples: k >= 1.
            seed, sample_offset, observation_offset: as in :func:`iwae_fast.sample_gaussian`.
            context: (B, ...) each, what encoder and decoder take besides.
            mask: bool, True where x is observed, broadcasting to its shape: p(x_observed | z).
            posterior: what :meth:`encode` returned for x, where it is at hand already.

        Returns:
            (k, B) in nats, differentiable in the networks' parameters, by reparameterisation where z allows it.
        """
        checks.positive("num_samples", num_samples)
        checks.context(context, x.shape[0])
        if posterior is None:
            posterior = self.encode(x, *context, mask=mask)
        draw = Draw(seed_tensor(seed, x.device), num_samples, sample_offset, observation_offset)
        _, terms = self.terms(x, posterior, draw, context=context, mask=mask)
        return terms.log_weights()

    def log_likelihood(
        self, x: Tensor, z: Tensor, *, context: Sequence[Tensor] = (), mask: Tensor | None = None
    ) -> Tensor:
        """log p(x | z) in nats, (k, B), of observations (B, ...) under latents (k, B, Z)."""
        inputs = self._decoder_inputs(z, context, next(self.decoder.parameters(), z).dtype)
        if (decoder := self.linear_decoder) is not None:
            output: Any = LinearLayer(decoder.features(*inputs), decoder.output)
        else:
            output = self.decoder(*inputs)
        observed = None if mask is None else observed_features(mask, x).flatten(1)
        return self.likelihood.log_prob(x, output, len(z), observed, self.backend)

    def _decoder_inputs(self, z: Tensor, context: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Latents, in the dtype of the decoder's parameters, and context by row, k B of them."""
        repeated = (c.expand(len(z), *c.shape).flatten(0, 1) for c in context)
        return z.flatten(0, 1).to(dtype), *repeated

    @torch.no_grad()
    def sample_implicit_posterior(
        self,
        x: Tensor,
        num_samples: int,
        seed: int | Tensor | None = None,
        *,
        context: Sequence[Tensor] = (),
        mask: Tensor | None = None,
    ) -> Tensor:
        """A draw of z for each observation, (B, Z), from what IWAE with k samples fits to the posterior.

        Sampling-importance-resampling: k draws from q(z | x), of which one is taken by its weight. With k it goes from
        q to the true posterior (Cremer, Morris & Duvenaud 2017). With several layers, z is what the decoder sees.
        """
        seed = seed_tensor(seed, x.device)
        posterior = self.encode(x, *context, mask=mask)
        z, terms = self.terms(
            x, posterior, Draw(seed, checks.positive("num_samples", num_samples)), context=context, mask=mask
        )
        # The largest of log w_i - log e_i, with e_i exponential, is at i with probability w_i / sum w.
        shape = (num_samples, len(x), 1)
        draws = standard_normal(
            shape, seed, stream=RESAMPLING_STREAM, dtype=torch.float64, device=seed.device, backend=self.backend
        )
        race = terms.log_weights().double() - torch.log(-torch.special.log_ndtr(draws.squeeze(-1)))
        return z.gather(0, race.argmax(0)[None, :, None].expand(1, -1, z.shape[-1])).squeeze(0)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, *context: Tensor, mask: Tensor | None = None) -> Tensor:
        """E[x' | z] at the posterior mean z of each observation, in the shape of ``x``."""
        z = self.posterior_mean(self.encode(x, *context, mask=mask))
        return self.likelihood.mean(self.decoder(z, *context)).reshape(x.shape)

    @torch.no_grad()
    def sample(self, num_samples: int, seed: int | Tensor | None = None, *, context: Sequence[Tensor] = ()) -> Tensor:
        """E[x | z] for ``num_samples`` draws of z from the prior, in the shape the decoder gives.

        ``context`` has ``num_samples`` rows each.
        """
        z = as_parameters(self.decoder, self.prior_draws(num_samples, seed))
        return self.likelihood.mean(self.decoder(z, *context))

    def kl_by_dimension(self, posterior: Posterior) -> Tensor:
        """KL(q(z | x) || p(z)) of each latent dimension, (B, Z) in nats, where it has a closed form."""
        raise ValueError(f"the divergence of {type(self).__name__} by dimension has no closed form here")

    def extra_repr(self) -> str:
        return f"backend={self.backend!r}"


class LinearOutput(nn.Module, ABC):
    """A decoder whose last layer is linear: logits are output(features(z)).

    A model with a Bernoulli likelihood takes that layer and the likelihood in one
    (:func:`iwae_fast.linear_bernoulli_log_prob`), unless hooks want to see either called. A subclass sets ``output``
    and defines :meth:`features`.
    """

    output: nn.Linear

    @abstractmethod
    def features(self, z: Tensor, *context: Tensor) -> Tensor:
        """What the output layer sees, (N, H), of latents (N, Z)."""

    def forward(self, z: Tensor, *context: Tensor) -> Tensor:
        return self.output(self.features(z, *context))


def _has_hooks(module: nn.Module) -> bool:
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return any(hooks)


def observed_features(mask: Tensor, x: Tensor) -> Tensor:
    """A mask in the shape of the observations."""
    checks.mask(mask, tuple(x.shape), x.device)
    return mask.expand(x.shape)


def as_parameters(module: nn.Module, z: Tensor) -> Tensor:
    """z in the dtype that a module of half precision takes: noise and densities are float32 at least."""
    parameter = next(module.parameters(), z)
    return z.to(parameter.dtype)
