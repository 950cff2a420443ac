"""Importance weights: their log-mean-exp, normalization and effective sample size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import checks, reference
from ..backends import REFERENCE, BackendError, choose
from ..checks import WIDE
from .function import Fused, applied, backward_pass, implementation, saved


def log_mean_exp(log_weights: Tensor, dim: int = 0, *, backend: str | None = None) -> Tensor:
    """Compute logsumexp over ``dim`` minus log k: the IWAE bound of log-weights (Burda, Grosse & Salakhutdinov 2016).

    A column of all -inf gives -inf and zero gradient; other entries of -inf are weights of zero; NaN propagates.

    Args:
        log_weights: (k, ...) with k >= 1 on axis ``dim``.
        dim: the axis of samples.
        backend: force a backend by name.

    Returns:
        The bound in nats, in the shape of ``log_weights`` without ``dim``, float32 or float64.
    """
    checks.floating(log_weights=log_weights)
    dim = checks.dimension(log_weights, dim)
    chosen = choose(backend, (log_weights,), "log_mean_exp", log_weights.shape)
    if chosen == REFERENCE:
        return reference.log_mean_exp(log_weights, dim)
    return applied(LogMeanExp)(chosen, log_weights, dim)


def normalized_weights(log_weights: Tensor, dim: int = 0, *, backend: str | None = None) -> Tensor:
    """Compute self-normalized importance weights, softmax(log_weights); a column of all -inf gives weights of zero.

    Args:
        log_weights: (k, ...) with k >= 1 on axis ``dim``.
        dim: the axis of samples.
        backend: force a backend by name. Only the reference differentiates the weights: another raises BackendError if
            ``log_weights`` requires a gradient, and inside a ``torch.func`` transform.

    Returns:
        The weights in the shape of ``log_weights``, float32 or float64.
    """
    checks.floating(log_weights=log_weights)
    dim = checks.dimension(log_weights, dim)
    if (torch.is_grad_enabled() and log_weights.requires_grad) or torch._C._are_functorch_transforms_active():
        if backend is not None and choose(backend, (log_weights,)) != REFERENCE:
            raise BackendError(f"backend {backend!r} is forced but does not differentiate normalized weights")
        chosen = REFERENCE
    elif backend is None and log_weights.dtype not in WIDE:
        chosen = REFERENCE
    else:
        chosen = choose(backend, (log_weights,), "log_mean_exp", log_weights.shape)
    if chosen == REFERENCE:
        return reference.normalized_weights(log_weights, dim)
    # They are the gradient of log_mean_exp.
    (log_weights,) = reference.widen(log_weights)
    ones = log_weights.new_ones(()).expand(log_weights.shape[:dim] + log_weights.shape[dim + 1 :])
    return implementation(chosen).log_mean_exp_backward(ones, log_weights, dim)


def effective_sample_size(log_weights: Tensor, dim: int = 0) -> Tensor:
    """Compute Kish's effective sample size 1 / sum w~^2, between 1 and k; a column of all -inf gives 0.

    Returns the shape of ``log_weights`` without ``dim``, float32 or float64. There is no choice of a backend: it is
    computed in plain torch.
    """
    checks.floating(log_weights=log_weights)
    return reference.effective_sample_size(log_weights, checks.dimension(log_weights, dim))


class LogMeanExp(Fused):
    """The Function of :func:`log_mean_exp`."""

    @staticmethod
    def forward(backend: str, log_weights: Tensor, dim: int) -> Tensor:
        return implementation(backend).log_mean_exp(log_weights, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.backend, log_weights, ctx.dim = inputs
        ctx.save_for_backward(log_weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (log_weights,) = saved(ctx)
        (gradient,) = backward_pass("log_mean_exp", _log_mean_exp_backward, (grad,), log_weights, ctx.dim, ctx.backend)
        return None, gradient, None


def _log_mean_exp_backward(grad: Tensor, log_weights: Tensor, dim: int, backend: str) -> tuple[Tensor]:
    return (implementation(backend).log_mean_exp_backward(grad, log_weights, dim),)
