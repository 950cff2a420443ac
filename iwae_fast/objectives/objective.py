"""The objective: a bound, a gradient estimator and a number of samples, ready to train a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from .. import checks
from ..backends.heap import keep_large_blocks
from ..bounds import Bound
from ..deprecation import context_of
from ..models import VAE, LatentVariableModel
from ..models.base import check_model
from ..models.draw import Draw
from ..models.terms import LogQGradient
from . import estimators
from .bound_objective import BoundObjective, DictObjective
from .call import Call
from .ranks import ONE_PROCESS, MeshRanks, Ranks
from .record import Diagnostics, StepRecord
from .schedules import Schedule

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

CHANGING = (_DropoutNd, _BatchNorm, nn.RReLU)
"""Layers that are stochastic in training mode, or change in it."""

CHANGING_WITH_DROPOUT = (nn.RNNBase, nn.MultiheadAttention)
"""Layers that are stochastic in training mode if their dropout is not 0."""


class Objective:
    """A bound with a gradient estimator: ``loss = objective(model, x)`` is minus the bound.

    Args:
        bound: from :mod:`iwae_fast.bounds`.
        estimator: "reparameterized", "stl" or "dreg" for every bound, "gdreg" for a model with several layers;
            "aisle-kl", "aisle-chi2", "rws", "rws-dreg" or "vimco" for IWAE, of which "rws" and "vimco" do not
            differentiate through z: see :mod:`iwae_fast.estimators`. The value of the loss does not depend on it.
        num_samples: k >= 1, the number of importance samples per observation; for :class:`iwae_fast.bounds.SUMO`, the
            maximum. Required, except for the ELBO, for which it is 1 by default: with 1 sample other bounds equal the
            ELBO or are undefined.
        budget: the number of samples per observation that run backward: the budget - 1 with the largest scales, and one
            sampled from the remainder and reweighted to represent it. The gradient is unbiased; k forward passes
            without a graph are needed first, so on a GPU it saves memory but hardly any time below about k = 100
            (docs/objectives.md). A budget of at least k selects all samples.
        tolerance: drop the samples whose scales sum to at most this fraction of the total, such as 1e-7 (rounding) or
            1e-3; the bias of the gradient is at most of that size. Forces a device synchronization.
        chunk_size: the maximum number of samples per observation in one pass. The result is exact, and only a chunk's
            memory is needed. The backward pass runs the decoder forward again, so layers that are stochastic in
            training mode raise ValueError.
        kl_weight: factor of log p(z) - log q(z | x) in the log-weights (beta-VAE, Higgins et al. 2017): a number, or a
            schedule from :mod:`iwae_fast.schedules`, which is called with ``step``. If it is not 1 the value is the
            bound of those log-weights, not a bound on log p(x).
        free_bits: minimum of the KL divergence per latent dimension, in nats: the penalty is
            kl_weight sum_d max(free_bits, KL_d), with KL_d the mean over the batch in closed form (Kingma et al. 2016).
            Only for the reparameterized ELBO of a :class:`iwae_fast.models.VAE` with one layer, all samples in one
            pass.
        reduction: "mean" or "sum" over the observations, or "none".
        dataset_size: N; with reduction "sum" the loss is N / B times the sum, an estimate for the whole data set.

    After a call, :attr:`last` has its :class:`Diagnostics`.

    The first objective of a process allocates and frees a block of 32 MiB, from which glibc learns to keep blocks of
    that size instead of returning them to the operating system. ``IWAE_FAST_KEEP_BLOCKS=0`` turns that off.
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
        self.num_samples: int = checks.positive("num_samples", num_samples)
        self._estimator = estimators.check(estimator, bound, num_samples, kl_weight != 1.0)
        if budget is not None and tolerance is not None:
            raise ValueError("budget and tolerance cannot both be given")
        if tolerance is not None and not 0.0 <= tolerance < 1.0:
            raise ValueError(f"tolerance must be at least 0 and below 1, got {tolerance}")
        if not callable(kl_weight):
            _not_negative("kl_weight", kl_weight)
        _not_negative("free_bits", free_bits)
        self.single_pass: bool = budget is None and tolerance is None and chunk_size is None
        if free_bits and not (bound.is_mean and estimator == "reparameterized" and self.single_pass):
            raise ValueError(
                "free_bits requires ELBO(), estimator 'reparameterized' and all samples in one pass, without budget, "
                "tolerance or chunk_size"
            )
        checks.reduction(reduction)
        if dataset_size is not None and reduction != "sum":
            raise ValueError(f"dataset_size requires reduction 'sum', got {reduction!r}")
        bound_of_call, k = bound.for_call(self.num_samples, 0)
        with torch.no_grad():
            bound_of_call(torch.zeros(k, 1))  # raises if k is invalid for this bound
        keep_large_blocks()
        self.bound = bound
        self.estimator = estimator
        self.budget: int | None = None if budget is None else checks.positive("budget", budget)
        self.tolerance = tolerance
        self.chunk_size: int | None = None if chunk_size is None else checks.positive("chunk_size", chunk_size)
        self.kl_weight = kl_weight
        self.free_bits = free_bits
        self.reduction = reduction
        self.dataset_size: int | None = None if dataset_size is None else checks.positive("dataset_size", dataset_size)
        self.record: StepRecord | None = None
        """The record of the last call, from which :attr:`last` is computed."""
        self._last: tuple[StepRecord, Diagnostics] | None = None

    def __call__(
        self,
        model: LatentVariableModel,
        x: Tensor,
        *positional: Tensor,
        context: Sequence[Tensor] = (),
        mask: Tensor | None = None,
        seed: int | Tensor | None = None,
        observation_offset: int | None = None,
        step: int | None = None,
        ranks: Ranks = ONE_PROCESS,
    ) -> Tensor:
        """Return minus the bound in nats, a scalar (with reduction "none": (B,)).

        Args:
            model: one of :mod:`iwae_fast.models`.
            x: observations (B, ...).
            context: further inputs of encoder and decoder, (B, ...) each, for p(x | z, context).
            mask: bool, True where x is observed, broadcasting to its shape. The loss is then minus a bound on
                log p(x_observed) (Mattei & Frellsen 2019); the encoder gets zeros in place of masked features.
            seed: seed of the noise, an int or an int64 scalar tensor; drawn from torch's generator if None.
            observation_offset: index of the first observation if x is a shard of a batch: with the same seed, shards
                draw the same noise as the whole batch. 0 if None, or the number of observations on the data ranks
                before this one.
            step: argument of the schedule if ``kl_weight`` is one.
            ranks: the processes that compute the loss together: see :meth:`bind`.
        """
        context = context_of(positional, context)
        self.check_model(model)
        model.check_batch(x, context)
        model.check_first_observations(x, mask)
        shared_seed = ranks.seed(seed, x.device)
        bound, k = self.bound.for_call(self.num_samples, seed if ranks is ONE_PROCESS else shared_seed)
        draw = Draw(
            shared_seed, k, observation_offset=ranks.first_observation(observation_offset, x.shape[0], x.device)
        )
        call = Call(self, model, bound, x, context, mask, draw, self._kl_weight(step), ranks)
        if (loss := call.plain_loss()) is None:
            loss, value, log_weights, ran = call.run()
            self.record = StepRecord(value.detach(), ran, call.kl_weight, log_weights.detach(), normalized=False)
        return ranks.finish(loss, x.shape[0], self.reduction, self.dataset_size)

    @property
    def last(self) -> Diagnostics | None:
        """Diagnostics of the last call, computed when first accessed; None before the first call."""
        if self.record is None:
            return None
        if self._last is None or self._last[0] is not self.record:
            self._last = self.record, self.record.diagnostics()
        return self._last[1]

    @overload
    def bind(
        self, model: LatentVariableModel, *, as_dict: Literal[False] = False, mesh: DeviceMesh | None = None
    ) -> BoundObjective: ...

    @overload
    def bind(
        self, model: LatentVariableModel, *, as_dict: Literal[True], mesh: DeviceMesh | None = None
    ) -> DictObjective: ...

    def bind(
        self, model: LatentVariableModel, *, as_dict: bool = False, mesh: DeviceMesh | None = None
    ) -> BoundObjective | DictObjective:
        """Return one module of the objective and a model, for tools that wrap or train modules.

        Args:
            model: one of :mod:`iwae_fast.models`.
            as_dict: False for a module whose ``forward(x, context=..., ...)`` returns the loss, for DDP, torch.compile
                and Lightning; True for one whose ``forward(x=..., context=..., ...)`` returns ``{"loss": loss}``, for
                trainers that call ``model(**batch)``, such as Hugging Face's.
            mesh: a torch DeviceMesh whose dimensions are named "data" and "sample", or one of them. Every rank of
                "data" is called with its own observations, and the ranks of "sample" divide the samples of the same
                observations. The loss is that of the whole batch, on every rank; the average of the gradients over all
                ranks, which DistributedDataParallel computes, is the gradient of one process. Without a ``seed`` the
                first rank's is broadcast.
        """
        self.check_model(model)
        ranks = ONE_PROCESS if mesh is None else MeshRanks(mesh)
        return DictObjective(self, model, ranks) if as_dict else BoundObjective(self, model, ranks)

    def check_model(self, model: LatentVariableModel) -> None:
        """Raise TypeError or ValueError if the objective is invalid for the model."""
        check_model(model)
        estimators.check_model(self.estimator, model)
        if model.random_weights and not self.bound.is_lower_bound:
            raise ValueError(
                "random weights require a bound that is always a lower bound: ELBO, IWAE, VRIWAE with "
                f"0 <= alpha <= 1, MIWAE, CIWAE or PIWAE, got {self.bound!r}"
            )
        if not self.single_pass:
            _refuse_layers_that_change(model, "a budget, a tolerance or chunk_size runs the networks twice")
        elif self._estimator.log_q_gradient is LogQGradient.PATHWISE and isinstance(model, VAE):
            _refuse_layers_that_change(model.upper, f"estimator {self.estimator!r} runs upper layers twice")

    def _kl_weight(self, step: int | None) -> float:
        if not callable(self.kl_weight):
            return self.kl_weight
        if step is None:
            raise ValueError("kl_weight is a schedule: call the objective with step=")
        return _not_negative("the schedule's kl_weight", self.kl_weight(step))

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


def _not_negative(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    return float(value)


def _refuse_layers_that_change(model: nn.Module, reason: str) -> None:
    for name, module in model.named_modules():
        with_dropout = isinstance(module, CHANGING_WITH_DROPOUT) and module.dropout > 0
        if module.training and (isinstance(module, CHANGING) or with_dropout):
            raise ValueError(
                f"{name} ({type(module).__name__}) is stochastic in training mode, but {reason}: put it in eval() "
                "mode, or use all samples in one pass and, with several layers, estimator 'reparameterized'"
            )
