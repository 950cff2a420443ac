"""The public functions: they check their arguments, choose a backend, and run it behind autograd.

Shapes: D is the number of features: the last axis, or the last ``event_dims`` axes of observations that have several,
such as images (B, C, H, W); k is the number of samples; ``...`` stands for any axes. Logarithms are natural, so every
result is in nats. Inputs may be float32, float64, bfloat16 or float16, mixed, strided or expanded; sums are accumulated
and returned in float32, in float64 if any input is float64. Gradients have the dtype of their input. ``backend`` forces
an implementation by name (see :func:`iwae_fast.backends.info`).

TypeError and ValueError name the argument that is wrong; ``iwae_fast.backends.BackendError`` says why a forced
backend cannot serve.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks, reference
from ..backends import REFERENCE, choose
from ..backends.marshal import accumulation_dtype
from . import autograd
from . import registry as ops
from .events import flattened

WIDE = (torch.float32, torch.float64)
"""Dtypes that sums are accumulated in."""


def gaussian_log_prob(
    value: Tensor,
    mean: Tensor,
    log_std: Tensor,
    mask: Tensor | None = None,
    *,
    event_dims: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Log-density of a diagonal Gaussian, summed over the last axis.

    log N(v; m, s) = -1/2 sum_d [((v - m) / s)^2 + 2 log s + log 2 pi], with log s given.

    Args:
        value, mean, log_std: tensors whose shapes broadcast to (..., D); nothing is copied to broadcast.
        mask: bool, True where observed, broadcasting to (..., D). A masked feature counts nothing, whatever it
            holds, NaN included.
        event_dims: how many of the last axes are features, over all of which is summed: 1 for (..., D), 3 for
            (..., C, H, W). Tensors and mask broadcast to all of these axes, and are read in place where their strides
            allow it.
        backend: force a backend by name.

    Returns:
        Log-density in nats, shape (...), float32 or float64.
    """
    checks.floating(value=value, mean=mean, log_std=log_std)
    return _density("gaussian_log_prob", mask, event_dims, backend, value=value, mean=mean, log_std=log_std)


def standard_gaussian_log_prob(
    value: Tensor, mask: Tensor | None = None, *, event_dims: int = 1, backend: str | None = None
) -> Tensor:
    """Log-density of N(0, I), summed over the last axis: -1/2 sum_d [v^2 + log 2 pi].

    Args:
        value: (..., D).
        mask, event_dims: as in :func:`gaussian_log_prob`.
        backend: force a backend by name.

    Returns:
        Log-density in nats, shape (...), float32 or float64.
    """
    checks.floating(value=value)
    return _density("standard_gaussian_log_prob", mask, event_dims, backend, value=value)


def bernoulli_log_prob(
    value: Tensor, logits: Tensor, mask: Tensor | None = None, *, event_dims: int = 1, backend: str | None = None
) -> Tensor:
    """Log-probability of independent Bernoulli variables given logits, summed over the last axis.

    log p = sum_d [v l - softplus(l)]. Values between 0 and 1 (grey levels) are allowed. Whether they lie there is not
    checked: of others, such as pixels from 0 to 255, the result is no log-probability.

    Args:
        value: observations, for example (B, D).
        logits: for example (k, B, D); shapes broadcast to (..., D) and nothing is copied to broadcast.
        mask, event_dims: as in :func:`gaussian_log_prob`.
        backend: force a backend by name.

    Returns:
        Log-probability in nats, shape (...), float32 or float64.
    """
    checks.floating(value=value, logits=logits)
    return _density("bernoulli_log_prob", mask, event_dims, backend, value=value, logits=logits)


def log_mean_exp(log_weights: Tensor, dim: int = 0, *, backend: str | None = None) -> Tensor:
    """logsumexp over ``dim`` minus log k: the IWAE bound of log-weights (Burda, Grosse & Salakhutdinov 2016).

    A column of all -inf gives -inf and zero gradient; single -inf are weights of zero; NaN stays NaN.

    Args:
        log_weights: (k, ...) with k >= 1 on axis ``dim``.
        dim: the axis of samples.
        backend: force a backend by name.

    Returns:
        In nats, the shape of ``log_weights`` without ``dim``, float32 or float64.
    """
    checks.floating(log_weights=log_weights)
    dim = checks.dimension(log_weights, dim)
    chosen = choose(backend, (log_weights,))
    if chosen == REFERENCE:
        return reference.log_mean_exp(log_weights, dim)
    return autograd.apply(autograd.LogMeanExp, chosen, log_weights, dim)


def normalized_weights(log_weights: Tensor, dim: int = 0) -> Tensor:
    """Self-normalised importance weights, softmax(log_weights); a column of all -inf gives weights of zero.

    Returns the shape of ``log_weights``, float32 or float64.
    """
    checks.floating(log_weights=log_weights)
    dim = checks.dimension(log_weights, dim)
    if not (torch.is_grad_enabled() and log_weights.requires_grad) and log_weights.dtype in WIDE:
        chosen = choose(None, (log_weights,))
        if chosen != REFERENCE and not torch._C._are_functorch_transforms_active():
            # Without a graph, they are the gradient of log_mean_exp.
            ones = log_weights.new_ones(()).expand(log_weights.shape[:dim] + log_weights.shape[dim + 1 :])
            return ops.call("log_mean_exp_backward", ones, log_weights, dim, backend=chosen)
    return reference.normalized_weights(log_weights, dim)


def effective_sample_size(log_weights: Tensor, dim: int = 0) -> Tensor:
    """Kish's effective sample size 1 / sum w~^2, between 1 and k; a column of all -inf gives 0.

    Returns the shape of ``log_weights`` without ``dim``, float32 or float64.
    """
    checks.floating(log_weights=log_weights)
    return reference.effective_sample_size(log_weights, checks.dimension(log_weights, dim))


def iwae_loss(log_weights: Tensor, dim: int = 0, reduction: str = "mean", *, backend: str | None = None) -> Tensor:
    """Minus the IWAE bound, for a model that has its log-weights (Burda, Grosse & Salakhutdinov 2016).

    Args:
        log_weights: log p(x, z_i) - log q(z_i | x), shape (k, ...) with the samples on axis ``dim``.
        dim: the axis of samples.
        reduction: "mean" or "sum" over the observations, or "none".
        backend: force a backend by name.

    Returns:
        The loss in nats: a scalar, or with "none" one entry an observation.
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
    """Minus the IWAE bound with a Bernoulli likelihood: densities, weights and bound in one pass each way.

    loss = -log (1/k) sum_i exp[log p(x | z_i) + log_ratio_i] (Burda, Grosse & Salakhutdinov 2016).

    Args:
        value: observations x, for example (B, D).
        logits: of p(x | z_i), for example (k, B, D). Together they broadcast to (k, ..., D), k >= 1.
        log_ratio: log p(z_i) - log q(z_i | x), (k, ...): as many axes as the likelihood, each of its size or 1, or a
            scalar.
        mask, event_dims: as in :func:`gaussian_log_prob`.
        reduction: "mean" or "sum" over the observations, or "none".
        backend: force a backend by name.

    Returns:
        The loss in nats: a scalar, or with "none" one entry per observation, shape (...).
    """
    checks.floating(value=value, logits=logits, log_ratio=log_ratio)
    return _iwae_loss(
        "bernoulli_iwae_loss", log_ratio, mask, reduction, event_dims, backend, value=value, logits=logits
    )


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
    """Minus the IWAE bound with a diagonal Gaussian likelihood: see :func:`bernoulli_iwae_loss`.

    Args:
        value: observations x, for example (B, D).
        mean, log_std: of p(x | z_i), for example (k, B, D). With ``value`` they broadcast to (k, ..., D), k >= 1.
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
        "gaussian_iwae_loss", log_ratio, mask, reduction, event_dims, backend, value=value, mean=mean, log_std=log_std
    )


def _density(name: str, mask: Tensor | None, event_dims: int, backend: str | None, **parameters: Tensor) -> Tensor:
    shape = checks.features(**parameters)
    checks.mask(mask, shape, parameters["value"].device)
    if event_dims != 1:
        _, event = checks.event(event_dims, shape)
        parameters, mask = flattened(event, parameters, mask)
        shape = (math.prod(event),)
    chosen = choose(backend, (*parameters.values(), mask))
    if chosen == REFERENCE:
        return getattr(reference, name)(*parameters.values(), mask)
    return autograd.apply(autograd.Density, name, chosen, mask, *_same_features(shape[-1], parameters))


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
    shape = checks.features(**parameters)
    likelihood, event = checks.event(event_dims, shape)
    leading = checks.log_ratio(log_ratio, likelihood, event_dims, parameters)
    if not leading:
        raise ValueError(f"the likelihood {shape} has no axis of samples: expected (k, ..., D)")
    if leading[0] == 0:
        raise ValueError(f"log-weights {leading} hold k = 0 samples: need k >= 1")
    checks.mask(mask, (*leading, *event), log_ratio.device)
    if event_dims != 1:
        parameters, mask = flattened(event, parameters, mask)
        event = (math.prod(event),)
    chosen = choose(backend, (*parameters.values(), log_ratio, mask), axes=len(leading) + 1)
    if tuple(log_ratio.shape) != leading:
        log_ratio = _expand(log_ratio, leading)
    if chosen == REFERENCE:
        return reduced(getattr(reference, name)(*parameters.values(), log_ratio, mask), reduction)
    parts = _same_features(event[-1], parameters)
    wanted = _gradients_at_once(f"{name}_and_gradients", chosen, parts, log_ratio)
    if wanted is None:
        loss, *_ = autograd.apply(autograd.IWAELoss, name, chosen, reduction, mask, log_ratio, *parts)
    else:
        loss, *_ = autograd.apply(autograd.IWAELossAtOnce, name, chosen, reduction, mask, wanted, log_ratio, *parts)
    return loss


def _gradients_at_once(op: str, backend: str, parameters: list[Tensor], log_ratio: Tensor) -> list[bool] | None:
    """Which parameters' gradients the forward pass is to make, or None where it is not to make any.

    They must not be summed over axes that a parameter lacks, nor be rounded before they are scaled.
    """
    wanted = [torch.is_grad_enabled() and p.requires_grad for p in parameters]
    if not any(wanted) or not ops.offered(op, backend):
        return None
    dtype = accumulation_dtype(log_ratio, *parameters)
    fits = all(
        p.shape[:-1] == log_ratio.shape and p.dtype == dtype for p, want in zip(parameters, wanted, strict=True) if want
    )
    return wanted if fits else None


def _same_features(size: int, parameters: dict[str, Tensor]) -> list[Tensor]:
    """Give all parameters the same last axis: native ops broadcast leading axes only."""
    return [p if p.shape[-1] == size else _expand(p, (*p.shape[:-1], size)) for p in parameters.values()]


def _expand(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Expand, and sum the gradient over what was expanded before it is rounded to half precision."""
    (tensor,) = reference.widen(tensor)
    return tensor.expand(shape)


def reduced(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()
