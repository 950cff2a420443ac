"""The objective: a bound, a gradient estimator and a number of samples, ready to train a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, cast, overload

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.checkpoint import checkpoint

from .. import checks
from ..autocast import autocast_dtype
from ..backends.heap import keep_large_blocks, return_free_memory
from ..bounds import CIWAE, ELBO, IWAE, MIWAE, PIWAE, VRIWAE, Bound
from ..models import VAE, LatentVariableModel
from ..models.base import Density, Draw, Posterior, Terms, check_model
from ..modules import parameter_dtype
from ..ops import autograd
from ..ops.functional import normalized_weights
from ..ops.samples import seed_tensor, standard_normal
from ..reference import effective_sample_size_of_weights
from . import estimators
from .budgets import to_tolerance, within_budget
from .estimators import Scales
from .routing import Ascended, Junction
from .schedules import Schedule

CHANGING = (_DropoutNd, _BatchNorm, nn.RReLU)
"""Layers whose training mode gives other results at every run ..."""

CHANGING_WITH_DROPOUT = (nn.RNNBase, nn.MultiheadAttention)
"""... and those that do where their dropout is not 0."""

ROWS_WITHOUT_A_GRAPH = 2048
"""Samples times observations at a time where only their log-weights are wanted, unless chunk_size says otherwise: large
matrix products, in the memory of few rows."""

DRAW_STREAM = 2**31
"""Of the noise that a budget draws by; latent layers count from 0."""


class Diagnostics(NamedTuple):
    """What an objective saw at its last call, per observation, without a graph."""

    value: Tensor
    """The bound in nats, (B,), of weights whose divergence counts ``kl_weight`` times."""
    ess: Tensor
    """Effective sample size of the weights, (B,)."""
    max_weight: Tensor
    """Largest normalised weight, (B,)."""
    num_backward: Tensor
    """Samples that ran backward, (B,)."""
    kl_weight: float = 1.0
    """What log p(z) - log q(z | x) was weighted by."""


class Seen(NamedTuple):
    """What diagnostics are made of when they are asked for."""

    value: Tensor
    num_backward: int | Tensor
    kl_weight: float
    weights: Tensor
    """(k, B), normalised, or their logarithms as they are."""
    normalized: bool
    passing: bool = False
    """Whether a later step writes into these tensors, so that what is handed out must be a copy."""

    def diagnostics(self) -> Diagnostics:
        """What is to be known of it; runs several operations."""
        return _diagnose(self)


def joined(seen: Sequence[Seen]) -> Seen:
    """Several calls of one objective as one, over the observations of all."""
    first = seen[0]
    if len(seen) == 1:
        return first
    num_backward = first.num_backward
    if isinstance(num_backward, Tensor):
        num_backward = torch.cat([cast(Tensor, each.num_backward) for each in seen])
    value, weights = torch.cat([each.value for each in seen]), torch.cat([each.weights for each in seen], 1)
    return first._replace(value=value, num_backward=num_backward, weights=weights)


class Objective:
    """``loss = objective(model, x)``: minus the bound, whose gradient is the estimator's.

    Args:
        bound: from :mod:`iwae_fast.bounds`.
        estimator: "reparameterized", "stl" or "dreg" for every bound, "gdreg" for a model with several layers;
            "aisle-kl", "aisle-chi2", "rws", "rws-dreg" or "vimco" for IWAE, of which "rws" and "vimco" need no gradient
            through z: see :mod:`iwae_fast.estimators`. The value is the bound's with each of them.
        num_samples: k >= 1, the number of importance samples per observation; of :class:`iwae_fast.bounds.SUMO` the
            largest number. It must be given, but for the ELBO, which takes 1 by default: with 1 sample the others are
            the ELBO, or nothing at all.
        budget: how many samples of each observation run backward: the budget - 1 that matter most, and one drawn from
            the rest that stands for all of these. Unbiased; k forward passes without a graph come first. From k on it
            is all samples.
        tolerance: drop the samples whose scales sum to at most this part of all, such as 1e-7 (rounding) or 1e-3: a
            bias of that size at most. Waits for the device.
        chunk_size: at most so many samples of each observation at a time. Exact, and the memory is that of a chunk; the
            backward pass runs the decoder forward again, so that layers which change between two runs are refused.
        kl_weight: what log p(z) - log q(z | x) is multiplied by inside the log-weights (beta-VAE, Higgins et al. 2017):
            a number, or a schedule from :mod:`iwae_fast.schedules`, which is asked at each call for its ``step``. With
            another weight than 1 the value is the bound of those log-weights, and no bound of log p(x).
        free_bits: nats of each latent dimension that cost nothing: kl_weight sum_d max(free_bits, KL_d), with KL_d the
            mean over the batch in closed form (Kingma et al. 2016). For the reparameterised ELBO of a
            :class:`iwae_fast.models.VAE` of one layer, all samples at once.
        reduction: "mean" or "sum" over the observations, or "none".
        dataset_size: N; with reduction "sum" the loss is then N / B times the sum, an estimate for the whole data set.

    After a call, :attr:`last` has its :class:`Diagnostics`.
    """

    def __init__(
        self,
        bound: Bound,
        estimator: str = "reparameterized",
        num_samples: int | None = None,
        *,
        budget: int | None = None,
        tolerance: float | None = None,
        chunk_size: int | None = None,
        kl_weight: float | Schedule = 1.0,
        free_bits: float = 0.0,
        reduction: str = "mean",
        dataset_size: int | None = None,
    ) -> None:
        if not isinstance(bound, Bound):
            raise TypeError(f"bound must be one of iwae_fast.bounds, such as IWAE(), got {bound!r}")
        if num_samples is None:
            if not bound.one_sample_serves:
                raise TypeError(
                    f"num_samples must be given with {bound!r}, such as Objective({bound!r}, num_samples=50): the "
                    "number of importance samples per observation"
                )
            num_samples = 1
        self.num_samples = checks.positive("num_samples", num_samples)
        self._estimator = estimators.check(estimator, bound, num_samples, kl_weight != 1.0)
        if budget is not None and tolerance is not None:
            raise ValueError("budget and tolerance are two ways to choose samples: give one")
        if tolerance is not None and not 0.0 <= tolerance < 1.0:
            raise ValueError(f"tolerance must be at least 0 and below 1, got {tolerance}")
        if not callable(kl_weight):
            _not_negative("kl_weight", kl_weight)
        _not_negative("free_bits", free_bits)
        self.at_once = budget is None and tolerance is None and chunk_size is None
        if free_bits and not (type(bound) is ELBO and estimator == "reparameterized" and self.at_once):
            raise ValueError("free_bits go with ELBO(), estimator 'reparameterized' and all samples at once")
        checks.reduction(reduction)
        if dataset_size is not None and reduction != "sum":
            raise ValueError(f"dataset_size goes with reduction 'sum', got {reduction!r}")
        bound_of_call, k = bound.for_call(self.num_samples, 0)
        with torch.no_grad():
            bound_of_call(torch.zeros(k, 1))  # raises if k is invalid for this bound
        keep_large_blocks()
        self.bound = bound
        self.estimator = estimator
        self.budget = None if budget is None else checks.positive("budget", budget)
        self.tolerance = tolerance
        self.chunk_size = None if chunk_size is None else checks.positive("chunk_size", chunk_size)
        self.kl_weight = kl_weight
        self.free_bits = free_bits
        self.reduction = reduction
        self.dataset_size = None if dataset_size is None else checks.positive("dataset_size", dataset_size)
        self.seen: Seen | None = None
        """Of the last call: what :attr:`last` is computed from."""
        self._last: tuple[Seen, Diagnostics] | None = None

    def __call__(
        self,
        model: LatentVariableModel,
        x: Tensor,
        *context: Tensor,
        mask: Tensor | None = None,
        seed: int | Tensor | None = None,
        observation_offset: int = 0,
        step: int | None = None,
    ) -> Tensor:
        """Minus the bound in nats, a scalar (with reduction "none": (B,)).

        Args:
            model: one of :mod:`iwae_fast.models`.
            x: observations (B, ...).
            context: (B, ...) each, what encoder and decoder take besides: theirs is p(x | z, context).
            mask: bool, True where x is observed, broadcasting to its shape. The bound is then that of log p(x_observed)
                (Mattei & Frellsen 2019); the encoder sees zeros where nothing is observed.
            seed: of the noise, an int or an int64 scalar tensor; from torch's generator if None.
            observation_offset: index of the first observation in a batch that is shared out: with one seed, shards then
                draw what the whole would draw.
            step: asks a schedule for its kl_weight.
        """
        self.check_model(model)
        model.check_batch(x, context)
        model.check_first_observations(x, mask)
        draw = Draw(seed_tensor(seed, x.device), self.num_samples, observation_offset=observation_offset)
        bound, k = self.bound.for_call(self.num_samples, seed)
        call = _Call(self, model, bound, x, context, mask, draw._replace(num_samples=k), self._kl_weight(step))
        if (loss := call.loss_in_one_op()) is not None:
            return loss
        value, log_weights, ran = call.run()
        self.seen = Seen(value.detach(), ran, call.kl_weight, log_weights.detach(), normalized=False)
        return self._reduced(-value)

    @property
    def last(self) -> Diagnostics | None:
        """What the last call saw; None before it. Computed when first asked for."""
        if self.seen is None:
            return None
        if self._last is None or self._last[0] is not self.seen:
            self._last = self.seen, self.seen.diagnostics()
        return self._last[1]

    @overload
    def bind(self, model: LatentVariableModel, *, as_dict: Literal[False] = False) -> BoundObjective: ...

    @overload
    def bind(self, model: LatentVariableModel, *, as_dict: Literal[True]) -> DictObjective: ...

    def bind(self, model: LatentVariableModel, *, as_dict: bool = False) -> BoundObjective | DictObjective:
        """Make one module of the objective and a model, for what wraps or trains modules.

        Args:
            model: one of :mod:`iwae_fast.models`.
            as_dict: False for a module whose ``forward(x, *context, ...)`` is the loss, as DDP, torch.compile and
                Lightning take it; True for one whose ``forward(x=..., context=..., ...)`` returns ``{"loss": loss}``,
                as trainers want it that call ``model(**batch)``, such as Hugging Face's.
        """
        self.check_model(model)
        return DictObjective(self, model) if as_dict else BoundObjective(self, model)

    def check_model(self, model: LatentVariableModel) -> None:
        """ValueError where the objective does not suit the model."""
        check_model(model)
        estimators.check_model(self.estimator, model)
        if model.random_weights and not _lower_for_any_weights(self.bound):
            raise ValueError(
                "random weights are learned by a bound that is a lower one whatever they are: ELBO, IWAE, VRIWAE with "
                f"0 <= alpha <= 1, MIWAE, CIWAE or PIWAE, not {self.bound!r}"
            )
        if not self.at_once:
            _refuse_layers_that_change(model, "a budget, a tolerance or chunks need")
        elif self._estimator.density is Density.PATH and isinstance(model, VAE):
            _refuse_layers_that_change(model.upper, f"estimator {self.estimator!r} needs of an upper layer")

    def _kl_weight(self, step: int | None) -> float:
        if not callable(self.kl_weight):
            return self.kl_weight
        if step is None:
            raise ValueError("kl_weight is a schedule: call the objective with step=")
        return _not_negative("the schedule's kl_weight", self.kl_weight(step))

    def _reduced(self, loss: Tensor) -> Tensor:
        if self.reduction == "none":
            return loss
        return loss.mean() if self.reduction == "mean" else self._for_the_data_set(loss.sum(), loss.shape[0])

    def _for_the_data_set(self, loss: Tensor, observations: int) -> Tensor:
        return loss if self.dataset_size is None else loss * (self.dataset_size / max(observations, 1))

    def __repr__(self) -> str:
        settings = {
            "budget": self.budget,
            "tolerance": self.tolerance,
            "chunk_size": self.chunk_size,
            "kl_weight": None if self.kl_weight == 1.0 else self.kl_weight,
            "free_bits": self.free_bits or None,
        }
        given = "".join(f", {name}={value!r}" for name, value in settings.items() if value is not None)
        return f"Objective({self.bound!r}, estimator={self.estimator!r}, num_samples={self.num_samples}{given})"


class BoundObjective(nn.Module):
    """An objective and its model as one module."""

    def __init__(self, objective: Objective, model: LatentVariableModel) -> None:
        super().__init__()
        self.objective = objective
        self.model = model

    def forward(
        self,
        x: Tensor,
        *context: Tensor,
        mask: Tensor | None = None,
        seed: int | Tensor | None = None,
        observation_offset: int = 0,
        step: int | None = None,
    ) -> Tensor:
        return self.objective(
            self.model, x, *context, mask=mask, seed=seed, observation_offset=observation_offset, step=step
        )


class DictObjective(nn.Module):
    """An objective and its model as one module, for trainers that hand it a batch by names and read a loss by name."""

    def __init__(self, objective: Objective, model: LatentVariableModel) -> None:
        super().__init__()
        self.objective = objective
        self.model = model

    def forward(
        self,
        x: Tensor,
        context: Tensor | Sequence[Tensor] = (),
        mask: Tensor | None = None,
        seed: int | Tensor | None = None,
        observation_offset: int = 0,
        step: int | None = None,
        return_loss: bool = True,
    ) -> dict[str, Tensor]:
        """Return {"loss": minus the bound in nats}.

        Args:
            x, mask, seed, observation_offset, step: as of :class:`Objective`.
            context: one tensor or several, (B, ...) each, what encoder and decoder take besides.
            return_loss: True. Hugging Face's Trainer looks for it to know that there is a loss to evaluate without
                labels.
        """
        if not return_loss:
            raise ValueError("return_loss must be True: the loss is all that there is to return")
        context = (context,) if isinstance(context, Tensor) else tuple(context)
        loss = self.objective(
            self.model, x, *context, mask=mask, seed=seed, observation_offset=observation_offset, step=step
        )
        return {"loss": loss}


class _Call:
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
    ) -> None:
        self.objective = objective
        self.model = model
        self.bound = bound
        self.x, self.context, self.mask = x, context, mask
        self.draw = draw
        self.kl_weight = kl_weight
        self.num_samples = draw.num_samples
        self.estimator = objective._estimator

    def loss_in_one_op(self) -> Tensor | None:
        """The loss of plain IWAE where one op goes from the decoder's last layer to it, else None."""
        objective = self.objective
        plain = type(self.bound) is IWAE and objective.estimator == "reparameterized" and objective.at_once
        if not plain or (decoder := self.model.in_one_op) is None:
            return None
        made = self.model.linear_iwae(
            decoder,
            self.x,
            self.model.encode(self.x, *self.context, mask=self.mask),
            self.draw,
            self.kl_weight,
            objective.reduction,
            context=self.context,
            mask=self.mask,
        )
        objective.seen = Seen(made.bound, self.num_samples, self.kl_weight, made.weights, normalized=True)
        return objective._for_the_data_set(made.loss, self.x.shape[0])

    def run(self) -> tuple[Tensor, Tensor, int | Tensor]:
        """The bound with the estimator's gradient, the log-weights, and how many samples run backward, for all or each
        observation."""
        objective = self.objective
        posterior = self.model.encode(self.x, *self.context, mask=self.mask)
        if objective.tolerance is not None or (objective.budget or math.inf) < self.num_samples:
            return self._chosen_samples(posterior)
        ran = self.num_samples
        if objective.free_bits:
            return *self._with_free_bits(posterior), ran
        both = self.bound.for_decoder is self.bound and self.bound.for_encoder is self.bound
        if objective.estimator == "reparameterized" and both and objective.chunk_size is None:
            log_weights = self._terms(posterior, 0, self.num_samples).log_weights(self.kl_weight)
            return self.bound(log_weights), log_weights, ran  # whose own gradient is the estimator's
        return *self._all_samples(posterior), ran

    def _terms(
        self,
        posterior: Posterior,
        first: int,
        count: int,
        samples: Tensor | None = None,
        junction: Junction | None = None,
    ) -> Terms:
        _, terms = self.model.terms(
            self.x,
            posterior,
            self.draw._replace(num_samples=count, sample_offset=first, samples=samples),
            context=self.context,
            mask=self.mask,
            density=Density.WHOLE if junction is None else self.estimator.density,
            passage=junction,
        )
        return terms

    def _with_free_bits(self, posterior: Posterior) -> tuple[Tensor, Tensor]:
        terms = self._terms(posterior, 0, self.num_samples)
        divergence = self.model.kl_by_dimension(posterior).mean(0).clamp(min=self.objective.free_bits).sum()
        return terms.log_likelihood.mean(0) - self.kl_weight * divergence, terms.log_weights(self.kl_weight)

    def _all_samples(self, posterior: Posterior) -> tuple[Tensor, Tensor]:
        """Run all samples with a graph; their scales are known only when all log-weights are."""

        def terms(first: int, count: int, *posterior: Tensor) -> tuple[Terms, Tensor]:
            junction = Junction(self.estimator.doubly_in_prior)
            terms = self._terms(posterior, first, count, junction=junction)
            return terms, junction.messenger(terms.log_ratio)

        step = self.objective.chunk_size or self.num_samples
        if step >= self.num_samples:
            whole, messenger = terms(0, self.num_samples, *posterior)
        else:
            # Checkpointed: only the terms of a chunk are kept, and its backward pass makes the rest again. While a CUDA
            # graph is captured torch's generators have no state to keep; noise here is none of theirs.
            keeps_generators = not (
                self.x.is_cuda and not torch.compiler.is_compiling() and torch.cuda.is_current_stream_capturing()
            )
            parts: list[Terms] = []
            messengers: list[Tensor] = []
            for first in range(0, self.num_samples, step):
                part, messenger = checkpoint(
                    terms,
                    first,
                    min(step, self.num_samples - first),
                    *posterior,
                    use_reentrant=False,
                    preserve_rng_state=keeps_generators,
                )
                parts.append(part)
                messengers.append(messenger)
                return_free_memory(self.x.device)
            whole, messenger = _concatenated(parts), torch.cat(messengers)
        log_weights = whole.log_weights(self.kl_weight).detach()
        value, scales = self._scaled(log_weights)
        return self._with_gradient(value, scales, messenger, whole), log_weights

    def _chosen_samples(self, posterior: Posterior) -> tuple[Tensor, Tensor, Tensor]:
        """Weights first, gradient second: all samples without a graph, then those that matter with one."""
        fixed = tuple(part.detach() for part in posterior)
        step = self.objective.chunk_size or max(1, ROWS_WITHOUT_A_GRAPH // max(1, self.x.shape[0]))
        k = self.num_samples
        with torch.no_grad():
            parts = []
            for first in range(0, k, step):
                parts.append(self._terms(fixed, first, min(step, k - first)).log_weights(self.kl_weight))
                return_free_memory(self.x.device)
            log_weights = torch.cat(parts)
            value, scales = self._scaled(log_weights)
            if self.objective.budget is not None:
                selection = within_budget(scales, self.objective.budget, self._exponential())
            else:
                selection = to_tolerance(scales, self.objective.tolerance or 0.0)
        junction = Junction(self.estimator.doubly_in_prior)
        chosen = self._terms(posterior, 0, len(selection.samples), selection.samples, junction)
        value = self._with_gradient(value, selection.scales, junction.messenger(chosen.log_ratio), chosen)
        return value, log_weights, selection.num_used

    def _exponential(self) -> Tensor:
        """Independent exponential draws (k, B), what a budget draws by."""
        shape = (self.num_samples, self.x.shape[0], 1)
        normal = standard_normal(
            shape,
            self.draw.seed,
            observation_offset=self.draw.observation_offset,
            stream=DRAW_STREAM,
            device=self.x.device,
            backend=self.model.backend,
        )
        return -torch.special.log_ndtr(normal.squeeze(-1))

    def _rounding(self) -> float:
        """Return half a unit in the last place of the networks' dtype."""
        dtype = autocast_dtype(self.x.device) or parameter_dtype(self.model.decoder, self.x.dtype)
        return 0.5 * torch.finfo(dtype).eps

    def _scaled(self, log_weights: Tensor) -> tuple[Tensor, Scales]:
        with torch.no_grad():
            return estimators.value_and_scales(self.estimator, self.bound, log_weights, self.kl_weight)

    def _with_gradient(self, value: Tensor, scales: Scales, messenger: Tensor, terms: Terms) -> Tensor:
        """Give the value the gradient that the scales make of the terms of each sample."""
        decoder, encoder = scales
        if encoder is decoder:
            ratio = torch.ones_like(decoder)
        else:
            decoder = _at_least(decoder, encoder, self._rounding())
            ratio = torch.where(decoder == 0, 0.0, encoder / torch.where(decoder == 0, 1.0, decoder))
        weighed = [(decoder, terms.log_likelihood), (self.kl_weight * encoder, terms.log_ratio)]
        if terms.log_prior is not None:
            weighed.append((self.kl_weight * decoder, terms.log_prior))
        return autograd.apply(Ascended, value, ratio, messenger, *(part for pair in weighed for part in pair))


def _concatenated(parts: list[Terms]) -> Terms:
    log_priors = [part.log_prior for part in parts if part.log_prior is not None]
    return Terms(
        torch.cat([part.log_likelihood for part in parts]),
        torch.cat(log_priors) if log_priors else None,
        torch.cat([part.log_ratio for part in parts]),
    )


@torch.no_grad()
def _diagnose(seen: Seen) -> Diagnostics:
    weights = seen.weights if seen.normalized else normalized_weights(seen.weights)
    value, num_backward = seen.value, seen.num_backward
    if isinstance(num_backward, int):
        num_backward = torch.full(weights.shape[1:], num_backward, dtype=torch.int64, device=weights.device)
    elif seen.passing:
        num_backward = num_backward.clone()
    ess = effective_sample_size_of_weights(weights)
    return Diagnostics(value.clone() if seen.passing else value, ess, weights.amax(0), num_backward, seen.kl_weight)


def _not_negative(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    return float(value)


def _lower_for_any_weights(bound: Bound) -> bool:
    """Whether the bound is below log p(x) for every q, so that it cannot gain by random weights that are too wide."""
    if type(bound) is VRIWAE:
        return 0.0 <= bound.alpha <= 1.0
    return type(bound) in (ELBO, IWAE, MIWAE, CIWAE, PIWAE)


def _refuse_layers_that_change(model: nn.Module, needs: str) -> None:
    for name, module in model.named_modules():
        with_dropout = isinstance(module, CHANGING_WITH_DROPOUT) and module.dropout > 0
        if module.training and (isinstance(module, CHANGING) or with_dropout):
            raise ValueError(
                f"{name} ({type(module).__name__}) gives other results when it runs again, as {needs}: put it in "
                "eval() mode, or take all samples at once and, with several layers, 'reparameterized'"
            )


def _at_least(decoder: Tensor, encoder: Tensor, rounding: float) -> Tensor:
    """The decoder's scales, kept from vanishing where the encoder's do not, by no more than rounding: their ratio must
    stay a number, and what is multiplied by it must not underflow."""
    least = rounding * encoder.abs()
    return torch.where(decoder.abs() < least, torch.copysign(least, decoder), decoder)
