"""Bounds: functions of the k log-weights of an observation, each with its value and coefficients.

A bound F takes ``log_weights`` of shape (k, ...) and gives one value an observation, differentiable by autograd.
Its coefficients are g_i = dF/dlog_w_i and D_i = d2F/dlog_w_i2, what gradient estimators are made of.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import checks
from .functional import log_mean_exp, normalized_weights


class Coefficients(NamedTuple):
    """The bound, its gradient and its own second derivative with respect to each log-weight."""

    value: Tensor
    """F, in nats, shape (...)."""
    g: Tensor
    """dF/dlog_w_i, shape (k, ...)."""
    D: Tensor
    """d2F/dlog_w_i2, shape (k, ...)."""


class Bound:
    """A function of log-weights of shape (k, ...); float32 or float64 comes back, k = 0 is a ValueError."""

    def __call__(self, log_weights: Tensor) -> Tensor:
        """The bound of each observation in nats, shape (...), differentiable."""
        raise TypeError(f"{type(self).__name__} does not define a bound: use one of iwae_fast.bounds")

    def coefficients(self, log_weights: Tensor) -> Coefficients:
        """Value and coefficients, without a graph."""
        raise TypeError(f"{type(self).__name__} does not define coefficients: use one of iwae_fast.bounds")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class ELBO(Bound):
    """The mean log-weight (Kingma & Welling 2014); g = 1/k, D = 0."""

    def __call__(self, log_weights: Tensor) -> Tensor:
        checks.floating(log_weights=log_weights)
        checks.dimension(log_weights, 0)
        dtype = torch.float64 if log_weights.dtype == torch.float64 else torch.float32
        return log_weights.mean(0, dtype=dtype)

    def coefficients(self, log_weights: Tensor) -> Coefficients:
        with torch.no_grad():
            value = self(log_weights)
            g = torch.full(log_weights.shape, 1.0 / log_weights.shape[0], dtype=value.dtype, device=value.device)
            return Coefficients(value, g, torch.zeros_like(g))


class IWAE(Bound):
    """log (1/k) sum w_i (Burda, Grosse & Salakhutdinov 2016); g = w~, D = w~ (1 - w~)."""

    def __call__(self, log_weights: Tensor) -> Tensor:
        return log_mean_exp(log_weights)

    def coefficients(self, log_weights: Tensor) -> Coefficients:
        with torch.no_grad():
            weights = normalized_weights(log_weights)
            return Coefficients(self(log_weights), weights, weights * (1.0 - weights))
