"""Minus the IWAE bound, from log-weights, or in one pass each way from a likelihood's parameters and a log-ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks, reference
from ..backends import NATIVE, REFERENCE, choose
from ..checks import accumulation_dtype
from ..reference import ScaleFactors
from .densities import counts
from .events import flattened
from .function import (
    Fused,
    applied,
    backward_pass,
    expand,
    host_value,
    implementation,
    is_tracing,
    log_ratio_gradient,
    once,
    same_features,
    saved,
    scatter_gradients,
    supports,
    times_upstream,
    with_memory,
)
from .scales import backend_with, scaled_loss
from .weights import log_mean_exp


def iwae_loss(log_weights: Tensor, dim: int = 0, reduction: str = "mean", *, backend: str | None = None) -> Tensor:
    """Compute minus the IWAE bound from log-weights (Burda, Grosse & Salakhutdinov 2016).

    Args:
        log_weights: log p(x, z_i) - log q(z_i | x), shape (k, ...) with the samples on axis ``dim``.
        dim: the axis of samples.
        reduction: "mean" or "sum" over the observations, or "none".
        backend: force a backend by name.

    Returns:
        The loss in nats: a scalar, or with "none" one entry per observation.
    """
    checks.reduction(reduction)
    return reduced(-log_mean_exp(log_weights, dim, backend=backend), reduction)


def bernoulli_iwae_loss(
    value: Tensor,
    logits: Tensor,
    log_ratio: Tensor,
    mask: Tensor | None = None,
    reduction: str = "mean",
    *,
    event_dims: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Compute minus the IWAE bound with a Bernoulli likelihood: densities, weights and bound in one pass each way.

    loss = -log (1/k) sum_i exp[log p(x | z_i) + log_ratio_i] (Burda, Grosse & Salakhutdinov 2016).

    Args:
        value: observations x, for example (B, D).
        logits: logits of p(x | z_i), for example (k, B, D). Together they broadcast to (k, ..., D), k >= 1.
        log_ratio: log p(z_i) - log q(z_i | x), (k, ...): as many axes as the likelihood, each of its size or 1, or a
            scalar.
        mask, event_dims: as in :func:`gaussian_log_prob`.
        reduction: "mean" or "sum" over the observations, or "none".
        backend: force a backend by name.

    Returns:
        The loss in nats: a scalar, or with "none" one entry per observation, shape (...).
    """
    checks.floating(value=value, logits=logits, log_ratio=log_ratio)
    return _iwae_loss("bernoulli", log_ratio, mask, reduction, event_dims, backend, value=value, logits=logits)


def gaussian_iwae_loss(
    value: Tensor,
    mean: Tensor,
    log_std: Tensor,
    log_ratio: Tensor,
    mask: Tensor | None = None,
    reduction: str = "mean",
    *,
    event_dims: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Compute minus the IWAE bound with a diagonal Gaussian likelihood: see :func:`bernoulli_iwae_loss`.

    Args:
        value: observations x, for example (B, D).
        mean, log_std: parameters of p(x | z_i), for example (k, B, D). With ``value`` they broadcast to (k, ..., D),
            k >= 1.
        log_ratio: log p(z_i) - log q(z_i | x), (k, ...): as many axes as the likelihood, each of its size or 1, or a
            scalar.
        mask, event_dims: as in :func:`gaussian_log_prob`.
        reduction: "mean" or "sum" over the observations, or "none".
        backend: force a backend by name.

    Returns:
        The loss in nats: a scalar, or with "none" one entry per observation, shape (...).
    """
    checks.floating(value=value, mean=mean, log_std=log_std, log_ratio=log_ratio)
    return _iwae_loss(
        "gaussian", log_ratio, mask, reduction, event_dims, backend, value=value, mean=mean, log_std=log_std
    )


def negative_binomial_iwae_loss(
    value: Tensor,
    log_mean: Tensor,
    log_theta: Tensor,
    log_ratio: Tensor,
    mask: Tensor | None = None,
    reduction: str = "mean",
    *,
    event_dims: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Compute minus the IWAE bound with a negative binomial likelihood of counts: see :func:`bernoulli_iwae_loss`.

    Args:
        value: counts x, for example (B, D), of a floating or integer dtype.
        log_mean, log_theta: parameters of p(x | z_i), as in :func:`negative_binomial_log_prob`, for example (k, B, D).
            With ``value`` they broadcast to (k, ..., D), k >= 1.
        log_ratio: log p(z_i) - log q(z_i | x), (k, ...): as many axes as the likelihood, each of its size or 1, or a
            scalar.
        mask, event_dims: as in :func:`gaussian_log_prob`.
        reduction: "mean" or "sum" over the observations, or "none".
        backend: force a backend by name.

    Returns:
        The loss in nats: a scalar, or with "none" one entry per observation, shape (...).
    """
    value = counts(value, log_mean, log_theta)
    checks.floating(value=value, log_mean=log_mean, log_theta=log_theta, log_ratio=log_ratio)
    tensors = {"value": value, "log_mean": log_mean, "log_theta": log_theta}
    return _iwae_loss("negative_binomial", log_ratio, mask, reduction, event_dims, backend, **tensors)


def zero_inflated_negative_binomial_iwae_loss(
    value: Tensor,
    log_mean: Tensor,
    log_theta: Tensor,
    dropout_logits: Tensor,
    log_ratio: Tensor,
    mask: Tensor | None = None,
    reduction: str = "mean",
    *,
    event_dims: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Compute minus the IWAE bound with a zero-inflated negative binomial likelihood: see :func:`bernoulli_iwae_loss`.

    Args:
        value: counts x, for example (B, D), of a floating or integer dtype.
        log_mean, log_theta, dropout_logits: parameters of p(x | z_i), as in
            :func:`zero_inflated_negative_binomial_log_prob`, for example (k, B, D). With ``value`` they broadcast to
            (k, ..., D), k >= 1.
        log_ratio: log p(z_i) - log q(z_i | x), (k, ...): as many axes as the likelihood, each of its size or 1, or a
            scalar.
        mask, event_dims: as in :func:`gaussian_log_prob`.
        reduction: "mean" or "sum" over the observations, or "none".
        backend: force a backend by name.

    Returns:
        The loss in nats: a scalar, or with "none" one entry per observation, shape (...).
    """
    value = counts(value, log_mean, log_theta, dropout_logits)
    tensors = {"value": value, "log_mean": log_mean, "log_theta": log_theta, "dropout_logits": dropout_logits}
    checks.floating(**tensors, log_ratio=log_ratio)
    return _iwae_loss("zero_inflated_negative_binomial", log_ratio, mask, reduction, event_dims, backend, **tensors)


def _iwae_loss(
    name: str,
    log_ratio: Tensor,
    mask: Tensor | None,
    reduction: str,
    event_dims: int,
    backend: str | None,
    **parameters: Tensor,
) -> Tensor:
    checks.reduction(reduction)
    shapes = tuple([tuple(parameter.shape) for parameter in parameters.values()])
    axes = _axes if is_tracing() else _known_axes  # a symbolic size has no hash
    leading, event = axes(event_dims, tuple(log_ratio.shape), tuple(parameters), shapes)
    if mask is not None:
        checks.mask(mask, (*leading, *event), log_ratio.device)
    if event_dims != 1:
        parameters, mask = flattened(event, parameters, mask)
        event = (math.prod(event),)
    chosen = choose(backend, (*parameters.values(), log_ratio, mask), f"{name}_iwae_loss", (*leading, event[-1]))
    if tuple(log_ratio.shape) != leading:
        log_ratio = expand(log_ratio, leading)
    if chosen == REFERENCE:
        return reduced(reference.iwae_loss(name, parameters.values(), log_ratio, mask), reduction)
    tensors = same_features(event[-1], parameters)
    needs_grad = _gradients_in_forward(chosen, tensors, log_ratio)
    if needs_grad is None:
        loss, *_ = applied(IWAELoss)(name, chosen, reduction, mask, log_ratio, *tensors)
    else:
        loss, *_ = applied(IWAELossWithGradients)(name, chosen, reduction, mask, needs_grad, log_ratio, *tensors)
    return loss


def _axes(
    event_dims: int, log_ratio: tuple[int, ...], names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the leading axes (k, ...) of a loss and its axes of features, from the shapes of the log-ratio and of the
    named parameters."""
    shape = checks.broadcast_features(dict(zip(names, shapes, strict=True)))
    likelihood, event = checks.event(event_dims, shape)
    leading = checks.log_ratio(log_ratio, likelihood, event_dims, names)
    if not leading:
        raise ValueError(f"the likelihood {shape} has no axis of samples: expected (k, ..., D)")
    if leading[0] == 0:
        raise ValueError(f"log-weights {leading} hold k = 0 samples: need k >= 1")
    return leading, event


_known_axes = lru_cache(maxsize=1024, typed=True)(_axes)
"""The same, remembered: shapes repeat, and comparing them takes a tenth of the Python of a small call."""


class IWAEResult(NamedTuple):
    """The reduced loss with the bounds and weights for diagnostics; only ``loss`` is differentiable."""

    loss: Tensor
    bound: Tensor
    """Bounds per observation, (...)."""
    weights: Tensor
    """Normalized importance weights (k, ...), or the log-weights."""
    normalized: bool
    """True if ``weights`` are normalized weights."""


def fused_iwae(
    name: str, log_ratio: Tensor, mask: Tensor | None, reduction: str, backend: str | None, **parameters: Tensor
) -> IWAEResult | None:
    """Compute the loss in one pass with its gradients, or return None if no backend supports that for these tensors.

    Args:
        name: a density of :data:`iwae_fast.reference.DENSITIES`.
        log_ratio: log p(z_i) - log q(z_i | x), (k, B).
        mask, reduction, backend: as in :func:`bernoulli_iwae_loss`.
        parameters: the tensors of the density: observations (B, D), and others (k, B, D).
    """
    shape = checks.features(**parameters)
    if shape[:-1] != log_ratio.shape or not len(log_ratio):
        return None
    checks.mask(mask, shape, log_ratio.device)
    chosen = choose(backend, (*parameters.values(), log_ratio, mask), f"{name}_iwae_loss", shape)
    if chosen == REFERENCE:
        return None
    tensors = same_features(shape[-1], parameters)
    if (needs_grad := _gradients_in_forward(chosen, tensors, log_ratio)) is None:
        return None
    loss, bound, weights, *_ = applied(IWAELossWithGradients)(
        name, chosen, reduction, mask, needs_grad, log_ratio, *tensors
    )
    return IWAEResult(loss, bound, weights.detach(), normalized=True)


def composed_iwae(log_prob: Tensor, log_ratio: Tensor, reduction: str, backend: str | None) -> IWAEResult:
    """Compute the loss from log p(x | z_i) and a log-ratio, (k, ...), which one launch adds where a kernel does."""
    serving = backend_with("weight_scales", backend, (log_prob, log_ratio))
    if serving is not None and log_prob.shape == log_ratio.shape:
        result = scaled_loss((log_prob, log_ratio), ScaleFactors(), reduction, backend=serving)
        return IWAEResult(result.loss, result.bound, result.log_weights, normalized=False)
    log_weights = log_prob + log_ratio
    bound = log_mean_exp(log_weights, backend=backend)
    return IWAEResult(reduced(-bound, reduction), bound.detach(), log_weights.detach(), normalized=False)


def _gradients_in_forward(backend: str, parameters: list[Tensor], log_ratio: Tensor) -> list[bool] | None:
    """Return which parameters get their gradients in the forward pass, or None if it computes no gradients.

    Such gradients must not need a sum over broadcast axes. They are rounded to the dtype of their parameter before they
    are scaled, which the backend must allow.
    """
    if not torch.is_grad_enabled():
        return None
    needs_grad = [p.requires_grad for p in parameters]
    if True not in needs_grad or not supports("iwae_loss_and_gradients", backend):
        return None
    whole, dtype = log_ratio.shape, accumulation_dtype(log_ratio, *parameters)
    for p, needed in zip(parameters, needs_grad, strict=True):
        if needed and (
            p.shape[:-1] != whole or (p.dtype != dtype and p.dtype not in NATIVE[backend].rounded_gradients)
        ):
            return None
    return needs_grad


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """Return the losses per observation, or their mean or sum."""
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


class IWAELoss(Fused):
    """Minus the IWAE bound, reduced over observations, from the likelihood's parameters and the log-ratio.

    The normalized weights are also returned, for the backward pass; they are not differentiable.
    """

    @staticmethod
    def forward(
        name: str, backend: str, reduction: str, mask: Tensor | None, log_ratio: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        return implementation(backend).iwae_loss(name, parameters, log_ratio, mask, reduction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.name, ctx.backend, ctx.reduction, mask, log_ratio, *parameters = inputs
        _, weights = output
        ctx.mark_non_differentiable(weights)
        ctx.set_materialize_grads(False)  # else the engine allocates zeros for the weights in every backward pass
        ctx.log_ratio_dtype = log_ratio.dtype
        ctx.save_for_backward(weights, mask, *parameters)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        needs_grad = list(ctx.needs_input_grad[5:])
        *gradients, grad_log_ratio = backward_pass(
            f"{ctx.name}_iwae_loss",
            _iwae_loss_backward,
            (grad,),
            ctx.name,
            ctx.backend,
            ctx.reduction,
            needs_grad,
            *saved(ctx),
        )
        if grad_log_ratio.dtype != ctx.log_ratio_dtype:
            grad_log_ratio = grad_log_ratio.to(ctx.log_ratio_dtype)
        return None, None, None, None, grad_log_ratio, *scatter_gradients(gradients, needs_grad)


def _iwae_loss_backward(
    grad: Tensor,
    name: str,
    backend: str,
    reduction: str,
    needs_grad: list[bool],
    weights: Tensor,
    mask: Tensor | None,
    *parameters: Tensor,
) -> Sequence[Tensor]:
    return implementation(backend).iwae_loss_backward(name, grad, weights, parameters, mask, reduction, needs_grad)


class IWAELossWithGradients(Fused):
    """:class:`IWAELoss` whose forward pass also computes the gradients, so that each exponential is computed once.

    ``needs_grad`` selects the parameters, which must have the shape of the whole call.
    Bounds, weights and gradients are also returned. The weights stay in the graph, so that the gradients can depend on
    them and a second derivative raises (:func:`iwae_fast.ops.function.once`). No gradient flows through them, so the
    caller must detach them before it returns them.
    """

    @staticmethod
    def forward(
        name: str,
        backend: str,
        reduction: str,
        mask: Tensor | None,
        needs_grad: list[bool],
        log_ratio: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        loss, bound, weights, gradients = implementation(backend).iwae_loss_and_gradients(
            name, parameters, log_ratio, mask, reduction, needs_grad
        )
        return loss, bound, weights, *gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, ctx.backend, ctx.reduction, _, _, log_ratio, *_ = inputs
        _, bound, weights, *gradients = output
        ctx.mark_non_differentiable(bound, *gradients)
        ctx.set_materialize_grads(False)
        ctx.log_ratio_dtype = log_ratio.dtype
        ctx.save_for_backward(weights, *gradients)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        weights, *gradients = saved(ctx)
        grad = with_memory(grad)
        needs_grad = list(ctx.needs_input_grad[6:])
        number = host_value(grad)
        grad_log_ratio = log_ratio_gradient(ctx, weights, grad, number) if ctx.needs_input_grad[5] else None
        gradients = times_upstream(ctx, gradients, grad, number, weights)
        grad_log_ratio, *placed = once((grad_log_ratio, *scatter_gradients(gradients, needs_grad)), weights)
        return None, None, None, None, None, grad_log_ratio, *placed
