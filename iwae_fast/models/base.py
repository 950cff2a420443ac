"""The base class of models: draws of the latents, and the terms of their log-weights, for objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from .. import checks
from ..deprecation import context_of
from ..likelihoods import Likelihood, LinearLayer, as_likelihood
from ..modes import evaluating, evaluation_mode
from ..modules import as_parameters, defines
from ..ops.losses import IWAEResult
from ..ops.samples import seed_tensor
from .completion import Completions
from .draw import Draw
from .embedding import Data, encode_dataset
from .encoding import observed_features, run_encoder
from .folders import InFolders
from .linear_output import LinearOutput, has_plain_linear_output
from .posteriors import AnyPosterior
from .readable import may_be_looked_at
from .terms import Latents, LogQGradient, RouteZ, Terms, weighted

if TYPE_CHECKING:
    from ..imputation import Imputation

RESAMPLING_STREAM = 2**31 + 1
"""Stream of the noise for resampling; the streams of latent layers count from 0."""


class LatentVariableModel(InFolders, nn.Module, ABC):
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
    validate: bool = False
    """True to check the support of all observations that objectives and :meth:`log_weights` take, not of the first ones
    alone."""
    _met_observations = False
    """True once :meth:`check_first_observations` has checked a batch."""

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, likelihood: str | Likelihood, backend: str | None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood: Likelihood = as_likelihood(likelihood)
        self.backend = backend

    def check_first_observations(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Raise ValueError if the first observations that the model sees are outside its likelihood's support.

        Later ones are checked if :attr:`validate` is True: each check forces a device synchronization. Nothing is
        checked while torch.compile or a function transform traces, while a CUDA graph is captured, or if
        ``torch.cuda.set_sync_debug_mode`` reports synchronizations.
        """
        if (self._met_observations and not self.validate) or not may_be_looked_at(x):
            return
        checks.mask(mask, tuple(x.shape), x.device)
        self.likelihood.check_support(x, mask)
        self._met_observations = True

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks that the model calls as modules, by name: those that torch.compile can serve one by one."""
        return {"encoder": self.encoder, "decoder": self.decoder}

    @property
    def takes_sample_indices(self) -> bool:
        """True if samples of z can be drawn by indices that differ between observations: ``Draw.samples``."""
        return True

    @property
    def linear_decoder(self) -> LinearOutput | None:
        """The decoder if its last layer and the likelihood can be fused; else None."""
        fused = self.likelihood.takes_linear_output and has_plain_linear_output(self.decoder)
        return cast(LinearOutput, self.decoder) if fused else None

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
    ) -> AnyPosterior:
        """Return q(z | x) of the first layer; that of a Gaussian unpacks to mean and log standard deviation, (B, Z).

        The encoder gets zeros in place of masked features. Floating observations are cast to the dtype of its
        parameters, integers are passed unchanged. Raises TypeError if the encoder does not take integers, and
        ValueError if its first layer does not take observations of this shape.
        """
        context = context_of(positional, context)
        self.check_batch(x, context)
        return self.posterior(run_encoder(self.encoder, x, context, mask))

    @abstractmethod
    def posterior(self, output: Any) -> AnyPosterior:
        """Return the encoder's output as a posterior; a posterior is returned unchanged. Raises TypeError for anything
        else."""

    def as_posterior(self, posterior: Any, expected: str = "posterior must be") -> AnyPosterior:
        """Return a posterior that :meth:`encode` returned unchanged; raise TypeError for anything else."""
        try:
            return self.posterior(posterior)
        except TypeError:
            raise TypeError(f"{expected} the result of encode(x), got {type(posterior).__name__}") from None

    @abstractmethod
    def latents(
        self,
        posterior: AnyPosterior,
        draw: Draw,
        log_q_gradient: LogQGradient = LogQGradient.FULL,
        route: RouteZ | None = None,
    ) -> Latents:
        """Draw z from q(z | x)."""

    @abstractmethod
    def prior_draws(self, num_samples: int, seed: int | Tensor | None) -> Tensor:
        """Draw z from p(z), (N, Z), as the decoder takes it."""

    @abstractmethod
    def mean_of(self, posterior: AnyPosterior) -> Tensor:
        """Return E[z] under a posterior that :meth:`encode` returned, (B, Z)."""

    def posterior_mean(
        self,
        x: Tensor | AnyPosterior,
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
        if not isinstance(x, Tensor):
            if context or mask is not None:
                raise ValueError("context and mask go with observations x, not with a posterior that encode() returned")
            return self.mean_of(self.as_posterior(x, "x must be observations (B, ...) or"))
        with evaluation_mode(self):
            return self.mean_of(self.encode(x, context=context, mask=mask))

    def encode_dataset(
        self,
        data: Data,
        batch_size: int | None = None,
        *,
        num_context: int = 0,
        num_samples: int | None = None,
        seed: int | Tensor | None = None,
    ) -> Tensor:
        """Return one z per observation of a data set, (N, Z), without gradients: its posterior mean, or with
        ``num_samples`` a draw by importance resampling, whose distribution approaches the true posterior.

        The arguments are those of :func:`iwae_fast.models.embedding.encode_dataset`: ``data`` may be a tensor, a torch
        Dataset, a DataLoader or another iterable of batches.
        """
        return encode_dataset(self, data, batch_size, num_context=num_context, num_samples=num_samples, seed=seed)

    def layer_means(self, posterior: AnyPosterior, draw: Draw) -> tuple[Tensor, ...]:
        """Return E[z_l | z_{l-1}] under q for the draws of z_{l-1}: (1, B, Z_1), then (k, B, Z_l) per further layer."""
        return (self.mean_of(self.as_posterior(posterior))[None],)

    def terms(
        self,
        x: Tensor,
        posterior: AnyPosterior,
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
        posterior: AnyPosterior,
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
            weighted(log_prior, log_ratio, kl_weight),
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
        posterior: AnyPosterior | None = None,
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
        posterior = self.encode(x, context=context, mask=mask) if posterior is None else self.as_posterior(posterior)
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

    def decoded(self, z: Tensor, draw: Draw, context: Sequence[Tensor] = ()) -> Any:
        """Return the decoder's output for the latents of a draw (k, B, Z), with k B rows."""
        return self.decoder(*self._decoder_inputs(z, context))

    def completions(
        self, x: Tensor, posterior: AnyPosterior, draw: Draw, *, context: Sequence[Tensor] = (), mask: Tensor
    ) -> Completions:
        """Draw z given the observed features of x, and return the samples with their log-weights."""
        if not defines(self, LatentVariableModel, "terms", "log_likelihood"):
            raise TypeError(f"{type(self).__name__} must define completions() to impute: it has its own log-weights")
        z, log_prior, log_ratio = self.latents(posterior, draw)
        output = self.decoded(z, draw, context)
        observed = observed_features(mask, x).flatten(1)
        log_likelihood = self.likelihood.log_prob(x, output, draw.num_samples, observed, self.backend)
        expectations = self.likelihood.expectations(output).unflatten(0, z.shape[:2])
        return Completions(Terms(log_likelihood, log_prior, log_ratio).log_weights(), z, expectations)

    def completed(self, particles: Tensor, generator: torch.Generator, context: Sequence[Tensor] = ()) -> Tensor:
        """Draw x, (n, B, D), for samples (n, B, P) that :meth:`completions` has returned."""
        drawn = self.likelihood.sample(self.decoder(*self._decoder_inputs(particles, context)), generator)
        return drawn.flatten(1).unflatten(0, particles.shape[:2])

    def impute(self, x: Tensor, mask: Tensor | None = None, num_samples: int = 1000, **options: Any) -> Imputation:
        """Impute the missing features of x by self-normalized importance sampling (Mattei & Frellsen 2019).

        The arguments are those of :func:`iwae_fast.imputation.impute`: ``num_draws``, ``median``, ``seed``,
        ``context``, ``chunk_size``, ``observation_offset`` and ``progress``.
        """
        from ..imputation import impute

        return impute(self, x, mask, num_samples, **options)

    @evaluating
    def sample_implicit_posterior(
        self,
        x: Tensor,
        num_samples: int,
        seed: int | Tensor | None = None,
        *,
        context: Sequence[Tensor] = (),
        mask: Tensor | None = None,
        observation_offset: int = 0,
    ) -> Tensor:
        """Draw one z per observation, (B, Z), from the distribution that IWAE with k samples fits to the posterior.

        This is sampling-importance-resampling: one of k draws from q(z | x) is chosen with probability proportional to
        its weight. As k grows, the distribution of z goes from q to the true posterior (Cremer, Morris & Duvenaud
        2017). With several layers, z is that of the layer nearest to the data. The model runs in evaluation mode,
        without gradients.

        ``observation_offset`` is the index of the first observation for the noise: with the number of observations
        before a batch, batches draw the noise of the whole.
        """
        self.check_batch(x, context)
        checks.not_negative("observation_offset", observation_offset)
        draw = Draw(
            seed_tensor(seed, x.device),
            checks.positive("num_samples", num_samples),
            observation_offset=observation_offset,
        )
        z, terms = self.terms(x, self.encode(x, context=context, mask=mask), draw, context=context, mask=mask)
        # log w_i - log e_i, with e_i exponential, is largest at i with probability w_i / sum w.
        draws = draw.noise(
            (len(x), 1), dtype=torch.float64, device=x.device, stream=RESAMPLING_STREAM, backend=self.backend
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

    def kl_by_dimension(self, posterior: AnyPosterior) -> Tensor:
        """Return KL(q(z | x) || p(z)) per latent dimension, (B, Z) in nats, in closed form.

        ``posterior`` is the result of :meth:`encode` for x. Raises ValueError if there is no closed form.
        """
        raise ValueError(f"the KL divergence per dimension of {type(self).__name__} has no closed form")

    def extra_repr(self) -> str:
        return f"backend={self.backend!r}"


def check_model(model: Any) -> None:
    """Raise TypeError unless ``model`` is one of :mod:`iwae_fast.models`."""
    if not isinstance(model, LatentVariableModel):
        raise TypeError(
            f"model must be one of iwae_fast.models, such as VAE(...), got {type(model).__name__} (compile or wrap "
            "its networks, or objective.bind(model))"
        )
