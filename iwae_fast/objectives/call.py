"""One evaluation of an objective: from observations to the bound, with the estimator's gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..backends.heap import return_free_memory
from ..bounds import Bound
from ..checks import autocast_dtype
from ..models import LatentVariableModel
from ..models.draw import Draw
from ..models.posteriors import AnyPosterior
from ..models.terms import LogQGradient, Terms
from ..modules import parameter_dtype
from ..ops.function import applied
from ..ops.losses import reduced
from ..ops.samples import standard_normal
from ..ops.scales import ScaledLoss, backend_with, scaled_loss, select_samples
from ..reference import log_weights_of
from . import estimators
from .budgets import Selection, to_tolerance, within_budget
from .estimators import Estimator, Scales
from .ranks import ONE_PROCESS, Ranks, Share
from .record import StepRecord
from .routing import GradientRouter, WeightedTerms, with_ratio

if TYPE_CHECKING:
    from .objective import Objective

ROWS_WITHOUT_A_GRAPH = 2048
"""Number of rows (samples times observations) per forward pass without a graph, unless chunk_size is given: enough for
efficient matrix products, few enough to need little memory."""

DRAW_STREAM = 2**31
"""Stream of the noise with which a budget draws samples; the streams of latent layers count from 0."""


class Call:
    """One evaluation of an objective."""

    def __init__(
        self,
        objective: Objective,
        model: LatentVariableModel,
        bound: Bound,
        x: Tensor,
        context: tuple[Tensor, ...],
        mask: Tensor | None,
        draw: Draw,
        kl_weight: float,
        ranks: Ranks,
    ) -> None:
        self.objective = objective
        self.model = model
        self.bound = bound
        self.x: Tensor = x
        self.context: tuple[Tensor, ...] = context
        self.mask: Tensor | None = mask
        self.draw = draw
        self.kl_weight = kl_weight
        self.ranks = ranks
        self.num_samples: int = draw.num_samples
        self.share: Share = ranks.share(draw.num_samples)
        self.estimator: Estimator = objective._estimator

    def plain_loss(self) -> Tensor | None:
        """Return the loss of this rank's observations if it is minus log_mean_exp over all samples, which likelihoods
        may fuse; else None."""
        objective = self.objective
        plain = self.bound.is_log_mean_exp and objective.estimator == "reparameterized" and objective.single_pass
        if not plain or not self.model.has_plain_terms or self.ranks.num_sample_ranks > 1:
            return None
        result = self.model.iwae_loss(
            self.x,
            self.model.encode(self.x, context=self.context, mask=self.mask),
            self.draw,
            self.kl_weight,
            self.ranks.shard_reduction(objective.reduction),
            context=self.context,
            mask=self.mask,
        )
        objective.record = StepRecord(
            result.bound, self.num_samples, self.kl_weight, result.weights, normalized=result.normalized
        )
        return result.loss

    def run(self) -> tuple[Tensor, Tensor, Tensor, int | Tensor]:
        """Return the loss of this rank's observations with the estimator's gradient, the bounds, the log-weights, and
        the number of samples that run backward (an int for all observations, or one entry per observation)."""
        objective = self.objective
        posterior = self.model.encode(self.x, context=self.context, mask=self.mask)
        if objective.tolerance is not None or (objective.budget or math.inf) < self.num_samples:
            return self._chosen_samples(posterior)
        ran = self.num_samples
        if objective.free_bits:
            value, log_weights = self._with_free_bits(posterior)
            return self._reduced(value), value, log_weights, ran
        both = self.bound.for_decoder is self.bound and self.bound.for_encoder is self.bound
        own_gradient = objective.estimator == "reparameterized" and both and objective.chunk_size is None
        if own_gradient and self.ranks.num_sample_ranks == 1:
            return *self._own_gradient(self._terms(posterior, 0, self.num_samples)), ran
        return *self._all_samples(posterior), ran

    def _terms(
        self,
        posterior: AnyPosterior,
        first: int,
        count: int,
        samples: Tensor | None = None,
        router: GradientRouter | None = None,
    ) -> Terms:
        _, terms = self.model.terms(
            self.x,
            posterior,
            self.draw._replace(num_samples=count, sample_offset=first, samples=samples),
            context=self.context,
            mask=self.mask,
            log_q_gradient=LogQGradient.FULL if router is None else self.estimator.log_q_gradient,
            route=router,
        )
        return terms

    def _own_gradient(self, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of a bound whose own gradient is the estimator's, the bounds, and the log-weights."""
        if (scaled := self._in_one_launch(terms.parts)) is not None:
            return scaled.loss, scaled.bound, scaled.log_weights
        log_weights = terms.log_weights(self.kl_weight)
        value = self.bound(log_weights)
        return self._reduced(value), value, log_weights

    def _with_free_bits(self, posterior: AnyPosterior) -> tuple[Tensor, Tensor]:
        """Return the ELBO whose divergence is at least ``free_bits`` in each dimension, and the log-weights."""
        terms = self._terms(posterior, self.share.first, self.share.size)
        by_dimension = self.model.kl_by_dimension(posterior)
        mean = self.ranks.mean(by_dimension)
        divergence = mean.clamp(min=self.objective.free_bits).sum()
        log_weights = self.ranks.gather(terms.log_weights(self.kl_weight), self.num_samples)
        value = self.ranks.gather(terms.log_likelihood, self.num_samples).mean(0) - self.kl_weight * divergence
        if self.ranks is ONE_PROCESS:
            return value, log_weights
        # The mean over the observations of all ranks has no graph. Each rank passes a part of the gradient on: that of
        # its own samples, and of the divergence of its own observations.
        share = torch.full_like(log_weights, 1.0 / self.num_samples)
        share = self.share.of(Scales(share, share)).decoder
        penalized = (mean >= self.objective.free_bits).to(value.dtype).unsqueeze(1).expand_as(by_dimension.T)
        scaled = [
            (share, terms.log_likelihood),
            (penalized * (-self.kl_weight / self.ranks.num_sample_ranks), by_dimension.T),
        ]
        return _weighted(value.detach(), torch.ones_like(share), torch.empty_like(share), scaled), log_weights

    def _all_samples(self, posterior: AnyPosterior) -> tuple[Tensor, Tensor, Tensor]:
        """Run this rank's samples with a graph; their scales are computed when all log-weights are known. Return the
        loss, the bounds, and the log-weights."""

        def terms(first: int, count: int) -> tuple[Terms, Tensor]:
            router = GradientRouter(self.estimator.reparameterize_prior)
            terms = self._terms(posterior, first, count, router=router)
            return terms, router.messenger(terms.log_ratio)

        start, count, _ = self.share
        step = self.objective.chunk_size or count
        if step >= count:
            own, messenger = terms(start, count)
            alone = self.ranks.num_sample_ranks == 1
            if alone and (scaled := self._in_one_launch(own.parts, messenger)) is not None:
                return scaled.loss, scaled.bound, scaled.log_weights
        else:
            # Checkpointed: only the terms of a chunk are saved, and its backward pass recomputes the rest. The state of
            # torch's generators cannot be saved while a CUDA graph is captured; the noise here does not depend on it.
            keeps_generators = not (
                self.x.is_cuda and not torch.compiler.is_compiling() and torch.cuda.is_current_stream_capturing()
            )
            parts: list[Terms] = []
            messengers: list[Tensor] = []
            for first, chunk in _chunks(start, count, step):
                part, messenger = checkpoint(
                    terms, first, chunk, use_reentrant=False, preserve_rng_state=keeps_generators
                )
                parts.append(part)
                messengers.append(messenger)
                return_free_memory(self.x.device)
            own, messenger = _concatenated(parts), torch.cat(messengers)
        log_weights = self.ranks.gather(own.log_weights(self.kl_weight).detach(), self.num_samples)
        result, scales, ratio = self._scaled((log_weights,))
        ratio = None if ratio is None else self.share.rows(ratio)
        loss = self._with_gradient(result, self.share.of(scales), ratio, messenger, own)
        return loss, result.bound, log_weights

    def _chosen_samples(self, posterior: AnyPosterior) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute all log-weights without a graph, then run this rank's part of the selected samples with a graph."""
        fixed = posterior.detach()
        step = self.objective.chunk_size or max(1, ROWS_WITHOUT_A_GRAPH // max(1, self.x.shape[0]))
        with torch.no_grad():
            chunks = []
            for first, chunk in _chunks(self.share.first, self.share.size, step):
                chunks.append(self._terms(fixed, first, chunk))
                return_free_memory(self.x.device)
            if len(chunks) == 1 and self.ranks.num_sample_ranks == 1:
                result, scales, _ = self._scaled(chunks[0].parts)
            else:
                own_weights = torch.cat([terms.log_weights(self.kl_weight) for terms in chunks])
                result, scales, _ = self._scaled((self.ranks.gather(own_weights, self.num_samples),))
            if self.objective.budget is not None:
                selection = self._within_budget(scales, self.objective.budget)
            else:
                selection = to_tolerance(scales, self.objective.tolerance or 0.0)
        router = GradientRouter(self.estimator.reparameterize_prior)
        share = self.ranks.share(len(selection.samples))
        samples = selection.samples[share.first : share.first + share.size]
        own = self._terms(posterior, 0, share.size, samples, router)
        ratio = None if selection.ratio is None else share.rows(selection.ratio)
        loss = self._with_gradient(result, share.of(selection.scales), ratio, router.messenger(own.log_ratio), own)
        return loss, result.bound, result.log_weights, selection.num_used

    def _within_budget(self, scales: Scales, budget: int) -> Selection:
        if (backend := backend_with("select_samples", self.model.backend, tuple(scales))) is None:
            return within_budget(scales, budget, self._exponential())
        samples, *chosen, ratio, used = select_samples(
            *scales,
            self.draw.seed,
            budget,
            self.draw.observation_offset,
            DRAW_STREAM,
            self._rounding(),
            backend=backend,
        )
        return Selection(samples, Scales(*chosen), used, ratio)

    def _exponential(self) -> Tensor:
        """Return independent exponential draws (k, B), with which a budget draws samples: half the squared length of a
        pair of normals, which is minus the logarithm of the uniform number that they were made of."""
        shape = (self.num_samples, self.x.shape[0], 2)
        normal = standard_normal(
            shape,
            self.draw.seed,
            observation_offset=self.draw.observation_offset,
            stream=DRAW_STREAM,
            device=self.x.device,
            backend=self.model.backend,
        )
        return 0.5 * normal.square().sum(-1)

    def _rounding(self) -> float:
        """Return half a unit in the last place of the networks' dtype."""
        dtype = autocast_dtype(self.x.device) or parameter_dtype(self.model.decoder, self.x.dtype)
        return 0.5 * torch.finfo(dtype).eps

    def _scaled(self, terms: Sequence[Tensor]) -> tuple[_Result, Scales, Tensor | None]:
        """Return the loss without a graph, the scales, and their ratio if it was computed with them."""
        terms = [term.detach() for term in terms]
        with torch.no_grad():
            if (scaled := self._in_one_launch(terms)) is not None:
                encoder = scaled.encoder
                result = _Result(scaled.loss, scaled.bound, scaled.log_weights, is_loss=True)
                return result, Scales(scaled.decoder, encoder), scaled.ratio
            log_weights = log_weights_of(terms, self.kl_weight)
            value, scales = estimators.value_and_scales(self.estimator, self.bound, log_weights, self.kl_weight)
            return _Result(value, value, log_weights, is_loss=False), scales, None

    def _in_one_launch(self, terms: Sequence[Tensor], messenger: Tensor | None = None) -> ScaledLoss | None:
        """Return the loss with the estimator's gradient if a kernel computes both."""
        factors = estimators.factors_of(self.estimator, self.bound, self.num_samples, self.kl_weight, self._rounding())
        serving = None if factors is None else backend_with("weight_scales", self.model.backend, terms)
        if factors is None or serving is None:
            return None
        return scaled_loss(terms, factors, self._reduction, self.kl_weight, messenger, backend=serving)

    @property
    def _reduction(self) -> str:
        return self.ranks.shard_reduction(self.objective.reduction)

    def _reduced(self, value: Tensor) -> Tensor:
        return reduced(-value, self._reduction)

    def _with_gradient(
        self, result: _Result, scales: Scales, ratio: Tensor | None, messenger: Tensor, terms: Terms
    ) -> Tensor:
        """Return the loss with the gradient of the sum of the samples' terms times their scales."""
        if ratio is None and scales.encoder is not scales.decoder:
            scales, ratio = with_ratio(scales, self._rounding())
        decoder, encoder = scales
        scaled = [(decoder, terms.log_likelihood), (self._times_kl_weight(encoder), terms.log_ratio)]
        if terms.log_prior is not None:
            scaled.append((self._times_kl_weight(decoder), terms.log_prior))
        weighted = _weighted(result.value, ratio, messenger, scaled)
        return weighted if result.is_loss else self._reduced(weighted)

    def _times_kl_weight(self, scale: Tensor) -> Tensor:
        return scale if self.kl_weight == 1.0 else self.kl_weight * scale


class _Result(NamedTuple):
    """The bound of a call, without a graph."""

    value: Tensor
    """The reduced loss if ``is_loss``, whose gradient the scales are; else the bounds (B,)."""
    bound: Tensor
    log_weights: Tensor
    is_loss: bool


def _weighted(
    value: Tensor, ratio: Tensor | None, messenger: Tensor, scaled: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    """Return the value with the gradient of the sum of scales times terms, for each pair of them."""
    weighted: Tensor = applied(WeightedTerms)(value, ratio, messenger, *(part for pair in scaled for part in pair))
    return weighted


def _chunks(first: int, count: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield the first sample and the number of samples of each chunk of at most ``step`` samples."""
    for start in range(0, count, step):
        yield first + start, min(step, count - start)


def _concatenated(parts: list[Terms]) -> Terms:
    log_priors = [part.log_prior for part in parts if part.log_prior is not None]
    return Terms(
        torch.cat([part.log_likelihood for part in parts]),
        torch.cat(log_priors) if log_priors else None,
        torch.cat([part.log_ratio for part in parts]),
    )
