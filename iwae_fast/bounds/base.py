"""The base class of bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from .. import checks, reference


class Coefficients(NamedTuple):
    """The value of a bound with its first and diagonal second derivatives with respect to each log-weight."""

    value: Tensor
    """F, in nats, shape (...)."""
    g: Tensor
    """dF/dlog_w_i, shape (k, ...)."""
    D: Tensor
    """d2F/dlog_w_i2, shape (k, ...)."""


class PowerMean(NamedTuple):
    """A form in which kernels compute bounds: the mean over groups of log[mean of w^p] / p.

    With v = softmax(p log w) within each of M groups, g = v / M and D = p v (1 - v) / M.
    """

    power: float
    """p > 0."""
    groups: int = 1
    """M, of k / M consecutive samples each."""


B = TypeVar("B", bound="Bound")
R = TypeVar("R")


def without_graph(method: Callable[[B, Tensor], R]) -> Callable[[B, Tensor], R]:
    """Run the method without recording an autograd graph.

    Equivalent to decorating with ``torch.no_grad()``, in a form that ``torch.compile`` can trace even if the bound is
    constructed during tracing.
    """

    @wraps(method)
    def run(bound: B, log_weights: Tensor) -> R:
        with torch.no_grad():
            return method(bound, log_weights)

    return run


class Bound:
    """A function F of log-weights of shape (k, ...); returns float32 or float64, and raises ValueError for k = 0.

    A column that is all -inf gives -inf. g_i and D_i are zero where log w_i is -inf, and so is the gradient computed by
    autograd: a weight of zero mostly results from an overflow, so its gradient carries no information.
    """

    one_sample_serves = False
    """True if k = 1 is a usual choice, which an objective then takes by default."""
    is_lower_bound = False
    """True if the bound is at most log p(x) for every q, so that learned random weights cannot inflate it."""
    is_log_mean_exp = False
    """True if the bound is :func:`iwae_fast.log_mean_exp`, whose coefficients are the normalized weights: likelihoods
    may compute it fused, and estimators that are derived from these weights apply."""
    power_mean: PowerMean | None = None
    """The form in which kernels compute the bound and an estimator's scales in one launch; None if it has another."""
    partition_of_unit: tuple[float, ...] | None = None
    """The partition of [0, 1] if kernels compute the bound, a thermodynamic objective, with an estimator's scales."""
    is_mean = False
    """True if the bound is the mean of the log-weights, whose divergence may be replaced by its closed form."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Drop the claims above for a subclass that redefines the bound and does not make them itself."""
        super().__init_subclass__(**options)
        if {"__call__", "coefficients"} & set(vars(cls)):
            for claim in ("is_lower_bound", "is_log_mean_exp", "is_mean"):
                if claim not in vars(cls):
                    setattr(cls, claim, False)
            for form in ("power_mean", "partition_of_unit"):
                if form not in vars(cls):
                    setattr(cls, form, None)

    @property
    def for_decoder(self) -> Bound:
        """The bound that the decoder maximizes: the bound itself by default, a lower bound in place of an upper one."""
        return self

    @property
    def for_encoder(self) -> Bound:
        """The bound that the encoder maximizes: the bound itself by default.

        Bounds that diverge, or whose mean does not depend on the encoder, return another one.
        """
        return self

    def for_call(self, num_samples: int, seed: int | Tensor | None) -> tuple[Bound, int]:
        """Return the bound of one call and its number of samples; both depend on the seed if the bound is random."""
        return self, num_samples

    def __call__(self, log_weights: Tensor) -> Tensor:
        """Compute the bound of each observation in nats, shape (...), differentiable."""
        raise TypeError(f"{type(self).__name__} does not define a bound: use one of iwae_fast.bounds")

    def coefficients(self, log_weights: Tensor) -> Coefficients:
        """Compute the value and the coefficients, without an autograd graph."""
        raise TypeError(f"{type(self).__name__} does not define coefficients: use one of iwae_fast.bounds")

    def __repr__(self) -> str:
        settings = ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in self._settings())
        return f"{type(self).__name__}({settings})"

    def _settings(self) -> tuple[object, ...]:
        """Return the constructor arguments of this bound, for its repr."""
        return ()


class Negated(Bound):
    """The negated bound -F, for a network that minimizes F."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound

    def __call__(self, log_weights: Tensor) -> Tensor:
        return -self.bound(log_weights)

    def coefficients(self, log_weights: Tensor) -> Coefficients:
        value, g, D = self.bound.coefficients(log_weights)
        return Coefficients(-value, -g, -D)

    def _settings(self) -> tuple[object, ...]:
        return (self.bound,)


def is_zero(log_weights: Tensor) -> Tensor:
    """Return a mask of the weights that are zero; no bound propagates a gradient to their logarithms."""
    return log_weights == -math.inf


def stopped_at_zero(log_weights: Tensor) -> Tensor:
    """Return the log-weights unchanged, with the gradient to weights of zero blocked."""
    return log_weights.masked_fill(is_zero(log_weights), -math.inf)


def widened(log_weights: Tensor) -> Tensor:
    """Check the log-weights and return them in the dtype in which sums are accumulated."""
    checks.floating(log_weights=log_weights)
    checks.dimension(log_weights, 0)
    return reference.widen(log_weights)[0]
