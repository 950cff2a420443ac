"""What a bound is."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from .. import checks, reference


class Coefficients(NamedTuple):
    """The bound, its gradient and its own second derivative with respect to each log-weight."""

    value: Tensor
    """F, in nats, shape (...)."""
    g: Tensor
    """dF/dlog_w_i, shape (k, ...)."""
    D: Tensor
    """d2F/dlog_w_i2, shape (k, ...)."""


B = TypeVar("B", bound="Bound")
R = TypeVar("R")


def without_graph(method: Callable[[B, Tensor], R]) -> Callable[[B, Tensor], R]:
    """Run the method without recording a graph.

    As ``torch.no_grad()`` decorates, but with what ``torch.compile`` follows for a bound that is made while it traces.
    """

    @wraps(method)
    def run(bound: B, log_weights: Tensor) -> R:
        with torch.no_grad():
            return method(bound, log_weights)

    return run


class Bound:
    """A function F of log-weights of shape (k, ...); float32 or float64 comes back, k = 0 is a ValueError.

    A column that is all -inf gives -inf. g_i and D_i are zero where log w_i is -inf, and so is the gradient by
    autograd: what made a weight of zero has mostly overflowed, and nothing is learned from it.
    """

    one_sample_serves = False
    """True if k = 1 is a usual choice, which an objective then takes by default."""
    is_lower_bound = False
    """True if the bound is at most log p(x) for every q, so that learned random weights cannot inflate it."""
    is_log_mean_exp = False
    """True if the bound is :func:`iwae_fast.log_mean_exp`, whose coefficients are the normalized weights: likelihoods
    may compute it fused, and estimators that are derived from these weights apply."""
    is_mean = False
    """True if the bound is the mean of the log-weights, whose divergence may be replaced by its closed form."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Drop the claims above for a subclass that redefines the bound and does not make them itself."""
        super().__init_subclass__(**options)
        if {"__call__", "coefficients"} & set(vars(cls)):
            for claim in ("is_lower_bound", "is_log_mean_exp", "is_mean"):
                if claim not in vars(cls):
                    setattr(cls, claim, False)

    @property
    def for_decoder(self) -> Bound:
        """What a decoder ascends: mostly the bound itself, but a lower bound in place of an upper one."""
        return self

    @property
    def for_encoder(self) -> Bound:
        """What an encoder ascends: mostly the bound itself, but never what diverges or says nothing of the encoder."""
        return self

    def realized(self, num_samples: int, seed: int | Tensor | None) -> tuple[Bound, int]:
        """The bound of one call and how many samples it takes: those of a random bound depend on the seed."""
        return self, num_samples

    def __call__(self, log_weights: Tensor) -> Tensor:
        """The bound of each observation in nats, shape (...), differentiable."""
        raise TypeError(f"{type(self).__name__} does not define a bound: use one of iwae_fast.bounds")

    def coefficients(self, log_weights: Tensor) -> Coefficients:
        """Value and coefficients, without a graph."""
        raise TypeError(f"{type(self).__name__} does not define coefficients: use one of iwae_fast.bounds")

    def __repr__(self) -> str:
        settings = ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in self._settings())
        return f"{type(self).__name__}({settings})"

    def _settings(self) -> tuple[object, ...]:
        """The arguments that made this bound."""
        return ()


class Negated(Bound):
    """-F: what descends F when it is ascended."""

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
    """Return where weights are zero: no gradient goes to their logarithms, whatever the bound."""
    return log_weights == -math.inf


def stopped_at_zero(log_weights: Tensor) -> Tensor:
    """Return the same log-weights, through which no gradient goes to weights of zero."""
    return log_weights.masked_fill(is_zero(log_weights), -math.inf)


def widened(log_weights: Tensor) -> Tensor:
    """Checked log-weights in the dtype that sums are accumulated in."""
    checks.floating(log_weights=log_weights)
    checks.dimension(log_weights, 0)
    return reference.widen(log_weights)[0]
