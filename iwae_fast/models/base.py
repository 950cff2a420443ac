"""The base class of models: draws of the latents, and the terms of their log-weights, for objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from .. import checks
from ..backends.marshal import PLAIN
from ..deprecation import context_of
from ..likelihoods import Likelihood, LinearLayer, as_likelihood
from ..modes import evaluating, evaluation_mode
from ..modules import as_parameters, defines, is_plain_linear, runs_forward
from ..ops.losses import IWAEResult
from ..ops.samples import seed_tensor, standard_normal
from .embedding import Data, encode_dataset

RESAMPLING_STREAM = 2**31 + 1
"""Stream of the noise for resampling; the streams of latent layers count from 0."""

Posterior = tuple[Any, ...]
"""Parameters of q(z | x) returned by the encoder: tensors (B, Z), or one
:class:`iwae_fast.models.posteriors.SampledPosterior`."""


class LogQGradient(Enum):
    """The dependencies of log q(z | x) that are differentiated."""

    FULL = "z and the encoder's parameters"
    PATHWISE = "z alone: the parameters are held fixed inside log q"
    SCORE = "the parameters alone: z is held fixed"


class Draw(NamedTuple):
    """Seed and indices of samples of z, which determine their noise."""

    seed: Tensor
    """int64 scalar on the model's device."""
    num_samples: int
    """k."""
    sample_offset: int = 0
    observation_offset: int = 0
    """Global indices of the first sample and observation, so that chunks and shards draw the same samples as the whole
    batch."""
    samples: Tensor | None = None
    """Index of each sample, (k, B) int64, in place of those from sample_offset on."""


class Latents(NamedTuple):
    """Samples of z, and the two parts of log p(z) - log q(z | x), each (k, B) in nats."""

    z: Tensor
    """(k, B, Z), as the decoder sees it."""
    log_prior: Tensor | None
    """The part of log p(z) that has parameters or is user-defined, whose gradient is scaled as the decoder's; None if
    there is no such part."""
    log_ratio: Tensor
    """The rest of log p(z) minus log q(z | x); its gradient reaches only the encoder."""


class Terms(NamedTuple):
    """The terms of log w = log p(x | z) + log p(z) - log q(z | x), each (k, B) in nats."""

    log_likelihood: Tensor
    """log p(x | z)."""
    log_prior: Tensor | None
    """See :class:`Latents`."""
    log_ratio: Tensor
    """See :class:`Latents`."""

    def log_weights(self, kl_weight: float = 1.0) -> Tensor:
        """Return log p(x | z) + kl_weight (log p(z) - log q(z | x)), (k, B)."""
        return self.log_likelihood + weighed(self.log_prior, self.log_ratio, kl_weight)


def weighed(log_prior: Tensor | None, log_ratio: Tensor, kl_weight: float) -> Tensor:
    """Return kl_weight (log p(z) - log q(z | x)), (k, B)."""
    whole = log_ratio if log_prior is None else log_prior + log_ratio
    return whole if kl_weight == 1.0 else kl_weight * whole


class RouteZ(Protocol):
    """Route of z from the encoder to the densities: see :class:`iwae_fast.objectives.routing.GradientRouter`."""

    reparameterize_prior: bool

    def __call__(self, z: Tensor, from_prior: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]: ...


class LatentVariableModel(nn.Module, ABC):
    """p(z), p(x | z) from the decoder, q(z | x) from the encoder.

    A subclass determines the kind of latents: it defines :meth:`posterior`, :meth:`latents`, :meth:`prior_draws`,
    :meth:`mean_of` and, if a closed form exists, :meth:`kl_by_dimension`.
    """

    reparameterized = True
    """True if gradients flow through z to the encoder."""
    has_conditional_priors = False
    """True if there are learned priors between layers, whose latents can be reparameterized by the prior's noise."""
    random_weights = False
    """True if each sample has its own draw of network weights, whose distribution is learned."""
    _met_observations = False
    """True once :meth:`check_first_observations` has checked a batch."""

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, likelihood: str | Likelihood, backend: str | None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = as_likelihood(likelihood)
        self.backend = backend

    def check_first_observations(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Raise ValueError if the first observations that the model sees are outside its likelihood's support.

        Later ones are not checked: each check would force a device synchronization. Nothing is checked while
        torch.compile or a function transform traces, while a CUDA graph is captured, or if
        ``torch.cuda.set_sync_debug_mode`` reports synchronizations.
        """
        if torch.compiler.is_compiling() or self._met_observations or not _may_be_looked_at(x):
            return
        checks.mask(mask, tuple(x.shape), x.device)
        self.likelihood.check_support(x, mask)
        self._met_observations = True

    @property
    def linear_decoder(self) -> LinearOutput | None:
        """The decoder if its last layer and the likelihood can be fused; else None.

        Fusion requires certainty that a call of the decoder computes ``output(features(z))`` with a plain linear layer
        and nothing else: neither its subclass nor the instance overrides ``forward``, and no hooks are registered.
        """
        decoder = self.decoder
        if not (self.likelihood.takes_linear_output and isinstance(decoder, LinearOutput)):
            return None
        certain = defines(decoder, LinearOutput, "forward") and runs_forward(decoder)
        return decoder if certain and is_plain_linear(decoder.output) else None

    @property
    def has_plain_terms(self) -> bool:
        """True if :meth:`iwae_loss` computes the bound of :meth:`terms`: no subclass overrides the terms."""
        return defines(self, LatentVariableModel, "terms", "log_likelihood", "_log_likelihood_of")

    def check_batch(self, x: Tensor, context: Sequence[Tensor] = ()) -> None:
        """Raise TypeError or ValueError, naming the argument, unless the model takes these arguments.

        Args:
            x: observations (B, ...) of a floating dtype, or also of an integer dtype if the likelihood has
                :attr:`iwae_fast.likelihoods.Likelihood.takes_integers`.
            context: further inputs of encoder and decoder, (B, ...) each.
        """
        checks.observations(x, self.likelihood.takes_integers)
        checks.context(context, x.shape[0])

    def encode(
        self, x: Tensor, *positional: Tensor, context: Sequence[Tensor] = (), mask: Tensor | None = None
    ) -> Posterior:
        """Return the parameters of q(z | x) of the first layer, each (B, Z).

        The encoder gets zeros in place of masked features. Floating observations are cast to the dtype of its
        parameters, integers are passed unchanged. Raises TypeError if the encoder does not take integers, and
        ValueError if its first layer does not take observations of this shape.
        """
        context = context_of(positional, context)
        self.check_batch(x, context)
        x = visible(x, mask)
        if x.is_floating_point():
            x = as_parameters(self.encoder, x)
        try:
            output = self.encoder(x, *context)
        except RuntimeError as error:
            what = str(error)
            name = type(self.encoder).__name__
            if not x.is_floating_point() and any(word in what for word in ("type", "not implemented for")):
                raise TypeError(
                    f"x is {x.dtype}, which the encoder, a {name}, does not take: convert x, as with x.float(), or "
                    "convert it inside the encoder"
                ) from error
            if any(word in what for word in ("shapes cannot be multiplied", "Expected 3D", "expected input")):
                raise ValueError(
                    f"x {tuple(x.shape)} has a shape that the encoder, a {name}, does not take: {what}"
                ) from error
            raise
        return self.posterior(output)

    @abstractmethod
    def posterior(self, output: Any) -> Posterior:
        """Check the encoder's output and return it as a tuple."""

    @abstractmethod
    def latents(
        self,
        posterior: Posterior,
        draw: Draw,
        log_q_gradient: LogQGradient = LogQGradient.FULL,
        route: RouteZ | None = None,
    ) -> Latents:
        """Draw z from q(z | x)."""

    @abstractmethod
    def prior_draws(self, num_samples: int, seed: int | Tensor | None) -> Tensor:
        """Draw z from p(z), (N, Z), as the decoder takes it."""

    @abstractmethod
    def mean_of(self, posterior: Posterior) -> Tensor:
        """Return E[z] under a posterior that :meth:`encode` returned, (B, Z)."""

    def posterior_mean(
        self,
        x: Tensor | Posterior,
        *positional: Tensor,
        context: Sequence[Tensor] = (),
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return E[z] under q(z | x), (B, Z), one point per observation.

        The result is differentiable. With several stochastic layers, z is that of the layer nearest to the data.

        Args:
            x: observations (B, ...), encoded in evaluation mode; or the result of :meth:`encode` for them, in whichever
                mode that ran.
            context: further inputs of the encoder, (B, ...) each.
            mask: bool, True where x is observed, broadcasting to its shape.
        """
        context = context_of(positional, context)
        if isinstance(x, tuple):
            if context or mask is not None:
                raise ValueError("context and mask go with observations x, not with a posterior that encode() returned")
            return self.mean_of(x)
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be observations (B, ...) or the result of encode(), got {type(x).__name__}")
        with evaluation_mode(self):
            return self.mean_of(self.encode(x, context=context, mask=mask))

    def encode_dataset(self, data: Data, batch_size: int | None = None, *, num_context: int = 0) -> Tensor:
        """Return the posterior mean of every observation of a data set, (N, Z), without gradients.

        The arguments are those of :func:`iwae_fast.models.embedding.encode_dataset`: ``data`` may be a tensor, a torch
        Dataset, a DataLoader or another iterable of batches.
        """
        return encode_dataset(self, data, batch_size, num_context=num_context)

    def layer_means(self, posterior: Posterior, draw: Draw) -> tuple[Tensor, ...]:
        """Return E[z_l | z_{l-1}] under q for the draws of z_{l-1}: (1, B, Z_1), then (k, B, Z_l) per further layer."""
        return (self.mean_of(as_posterior(posterior))[None],)

    def terms(
        self,
        x: Tensor,
        posterior: Posterior,
        draw: Draw,
        *,
        context: Sequence[Tensor] = (),
        mask: Tensor | None = None,
        log_q_gradient: LogQGradient = LogQGradient.FULL,
        route: RouteZ | None = None,
    ) -> tuple[Tensor, Terms]:
        """Draw z, (k, B, Z) as passed to the decoder, and compute the terms of its log-weights."""
        z, log_prior, log_ratio = self.latents(posterior, draw, log_q_gradient, route)
        return z, Terms(self._log_likelihood_of(draw, x, z, context=context, mask=mask), log_prior, log_ratio)

    def _log_likelihood_of(
        self, draw: Draw, x: Tensor, z: Tensor, *, context: Sequence[Tensor], mask: Tensor | None
    ) -> Tensor:
        """Return log p(x | z) in nats, (k, B), for the latents of a draw."""
        return self.log_likelihood(x, z, context=context, mask=mask)

    def iwae_loss(
        self,
        x: Tensor,
        posterior: Posterior,
        draw: Draw,
        kl_weight: float,
        reduction: str,
        *,
        context: Sequence[Tensor] = (),
        mask: Tensor | None = None,
    ) -> IWAEResult:
        """Compute minus the IWAE bound of a draw, fused with the likelihood if the likelihood supports it."""
        z, log_prior, log_ratio = self.latents(posterior, draw)
        return self.likelihood.iwae_loss(
            x,
            self._decode(z, context),
            weighed(log_prior, log_ratio, kl_weight),
            None if mask is None else observed_features(mask, x).flatten(1),
            reduction,
            self.backend,
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
        """Compute log p(x, z_i) - log q(z_i | x) for k new samples per observation.

        Args:
            x: observations (B, ...).
            num_samples: k >= 1.
            seed, sample_offset, observation_offset: as in :func:`iwae_fast.sample_gaussian`.
            context: further inputs of encoder and decoder, (B, ...) each.
            mask: bool, True where x is observed, broadcasting to its shape: p(x_observed | z).
            posterior: the result of :meth:`encode` for x, if it has been computed already.

        Returns:
            (k, B) in nats, differentiable in the networks' parameters, through z if it is reparameterized.
        """
        checks.positive("num_samples", num_samples)
        self.check_batch(x, context)
        self.check_first_observations(x, mask)
        posterior = self.encode(x, context=context, mask=mask) if posterior is None else as_posterior(posterior)
        draw = Draw(seed_tensor(seed, x.device), num_samples, sample_offset, observation_offset)
        _, terms = self.terms(x, posterior, draw, context=context, mask=mask)
        return terms.log_weights()

    def log_likelihood(
        self, x: Tensor, z: Tensor, *, context: Sequence[Tensor] = (), mask: Tensor | None = None
    ) -> Tensor:
        """Return log p(x | z) in nats, (k, B), for observations (B, ...) and latents (k, B, Z)."""
        self.check_batch(x, context)
        observed = None if mask is None else observed_features(mask, x).flatten(1)
        return self.likelihood.log_prob(x, self._decode(z, context), len(z), observed, self.backend)

    def _decode(self, z: Tensor, context: Sequence[Tensor]) -> Any:
        """Return the decoder's output, or its last layer and that layer's input if the likelihood fuses them."""
        inputs = self._decoder_inputs(z, context)
        if (decoder := self.linear_decoder) is not None:
            return LinearLayer(decoder.features(*inputs), cast(nn.Linear, decoder.output))
        return self.decoder(*inputs)

    def _decoder_inputs(self, z: Tensor, context: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return latents, in the dtype of the decoder's parameters, and context, each with k B rows."""
        repeated = (c.expand(len(z), *c.shape).flatten(0, 1) for c in context)
        return as_parameters(self.decoder, z.flatten(0, 1)), *repeated

    @evaluating
    def sample_implicit_posterior(
        self,
        x: Tensor,
        num_samples: int,
        seed: int | Tensor | None = None,
        *,
        context: Sequence[Tensor] = (),
        mask: Tensor | None = None,
    ) -> Tensor:
        """Draw one z per observation, (B, Z), from the distribution that IWAE with k samples fits to the posterior.

        This is sampling-importance-resampling: one of k draws from q(z | x) is chosen with probability proportional to
        its weight. As k grows, the distribution of z goes from q to the true posterior (Cremer, Morris & Duvenaud
        2017). With several layers, z is that of the layer nearest to the data. The model runs in evaluation mode,
        without gradients.
        """
        self.check_batch(x, context)
        seed = seed_tensor(seed, x.device)
        posterior = self.encode(x, context=context, mask=mask)
        z, terms = self.terms(
            x, posterior, Draw(seed, checks.positive("num_samples", num_samples)), context=context, mask=mask
        )
        # log w_i - log e_i, with e_i exponential, is largest at i with probability w_i / sum w.
        shape = (num_samples, len(x), 1)
        draws = standard_normal(
            shape, seed, stream=RESAMPLING_STREAM, dtype=torch.float64, device=seed.device, backend=self.backend
        )
        race = terms.log_weights().double() - torch.log(-torch.special.log_ndtr(draws.squeeze(-1)))
        return z.gather(0, race.argmax(0)[None, :, None].expand(1, -1, z.shape[-1])).squeeze(0)

    @evaluating
    def reconstruct(
        self, x: Tensor, *positional: Tensor, context: Sequence[Tensor] = (), mask: Tensor | None = None
    ) -> Tensor:
        """Return E[x' | z] at the posterior mean z of each observation, in the shape of ``x``.

        The model runs in evaluation mode, without gradients.
        """
        context = context_of(positional, context)
        z = self.mean_of(self.encode(x, context=context, mask=mask))
        return self.likelihood.mean(self.decoder(z, *context)).reshape(x.shape)

    @evaluating
    def sample(self, num_samples: int, seed: int | Tensor | None = None, *, context: Sequence[Tensor] = ()) -> Tensor:
        """Return E[x | z] for ``num_samples`` draws of z from the prior, in the shape of the decoder's output.

        Each tensor of ``context`` has ``num_samples`` rows. The model runs in evaluation mode, without gradients.
        """
        z = as_parameters(self.decoder, self.prior_draws(num_samples, seed))
        return self.likelihood.mean(self.decoder(z, *context))

    def kl_by_dimension(self, posterior: Posterior) -> Tensor:
        """Return KL(q(z | x) || p(z)) per latent dimension, (B, Z) in nats, in closed form.

        ``posterior`` is the result of :meth:`encode` for x. Raises ValueError if there is no closed form.
        """
        raise ValueError(f"the KL divergence per dimension of {type(self).__name__} has no closed form")

    def extra_repr(self) -> str:
        return f"backend={self.backend!r}"


class LinearOutput(nn.Module, ABC):
    """A decoder whose last layer is linear: logits are output(features(z)).

    A model with a Bernoulli likelihood fuses that layer and the likelihood
    (:func:`iwae_fast.linear_bernoulli_log_prob`). A subclass sets ``output`` and defines :meth:`features`.

    ``output`` may be any module. The layer is not fused, and decoder and layer are called like any module, unless the
    layer is certain to compute ``F.linear(features, output.weight, output.bias)``. It is not certain if its class is
    not nn.Linear (parametrized by torch.nn.utils.parametrize or not), if the decoder overrides ``forward``, if hooks
    are registered on either module or globally, or if ``compile()`` was called on either.
    """

    output: nn.Module

    @abstractmethod
    def features(self, z: Tensor, *context: Tensor) -> Tensor:
        """Return the input of the output layer, (N, H), for latents (N, Z)."""

    def forward(self, z: Tensor, *context: Tensor) -> Tensor:
        output: Tensor = self.output(self.features(z, *context))
        return output


def _may_be_looked_at(x: Tensor) -> bool:
    """Return True if the values of a tensor can be read, with a device synchronization if need be."""
    if type(x) not in PLAIN or torch._C._are_functorch_transforms_active():
        return False
    if x.is_cuda:
        return not (torch.cuda.is_current_stream_capturing() or torch.cuda.get_sync_debug_mode())
    return x.device.type == "cpu"


def observed_features(mask: Tensor, x: Tensor) -> Tensor:
    """Return a mask expanded to the shape of the observations."""
    checks.mask(mask, tuple(x.shape), x.device)
    return mask.expand(x.shape)


def visible(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return observations with zeros in place of masked features, in their own dtype."""
    return x if mask is None else torch.where(observed_features(mask, x), x, 0)


def check_model(model: Any) -> None:
    """Raise TypeError unless ``model`` is one of :mod:`iwae_fast.models`."""
    if not isinstance(model, LatentVariableModel):
        raise TypeError(
            f"model must be one of iwae_fast.models, such as VAE(...), got {type(model).__name__} (compile or wrap "
            "its networks, or objective.bind(model))"
        )


def as_posterior(posterior: Any) -> Posterior:
    """Return a posterior unchanged; raise TypeError unless it is a tuple, as :meth:`LatentVariableModel.encode`
    returns."""
    if not isinstance(posterior, tuple):
        raise TypeError(f"posterior must be the result of encode(x), a tuple, got {type(posterior).__name__}")
    return posterior
