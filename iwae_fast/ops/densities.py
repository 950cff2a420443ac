"""Log-densities, summed over features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import checks, reference
from ..backends import REFERENCE, choose
from .events import flattened
from .function import Fused, applied, backward_pass, implementation, same_features, saved, scatter_gradients


def gaussian_log_prob(
    value: Tensor,
    mean: Tensor,
    log_std: Tensor,
    mask: Tensor | None = None,
    *,
    event_dims: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Compute the log-density of a diagonal Gaussian, summed over the last axis.

    log N(v; m, s) = -1/2 sum_d [((v - m) / s)^2 + 2 log s + log 2 pi], with log s given.

    Args:
        value, mean, log_std: tensors whose shapes broadcast to (..., D), without copies.
        mask: bool, True where observed, broadcasting to (..., D). Masked features are ignored whatever their value,
            including NaN.
        event_dims: number of last axes that are features and summed over: 1 for (..., D), 3 for (..., C, H, W). Tensors
            and mask broadcast to all of these axes, without copies if the strides allow it.
        backend: force a backend by name.

    Returns:
        Log-density in nats, shape (...), float32 or float64.
    """
    checks.floating(value=value, mean=mean, log_std=log_std)
    return _density("gaussian", mask, event_dims, backend, value=value, mean=mean, log_std=log_std)


def standard_gaussian_log_prob(
    value: Tensor, mask: Tensor | None = None, *, event_dims: int = 1, backend: str | None = None
) -> Tensor:
    """Compute the log-density of N(0, I), summed over the last axis: -1/2 sum_d [v^2 + log 2 pi].

    Args:
        value: (..., D).
        mask, event_dims: as in :func:`gaussian_log_prob`.
        backend: force a backend by name.

    Returns:
        Log-density in nats, shape (...), float32 or float64.
    """
    checks.floating(value=value)
    return _density("standard_gaussian", mask, event_dims, backend, value=value)


def bernoulli_log_prob(
    value: Tensor, logits: Tensor, mask: Tensor | None = None, *, event_dims: int = 1, backend: str | None = None
) -> Tensor:
    """Compute the log-probability of independent Bernoulli variables given logits, summed over the last axis.

    log p = sum_d [v l - softplus(l)]. Values between 0 and 1 (gray levels) are allowed. The range is not checked: for
    other values, such as pixels from 0 to 255, the result is not a log-probability.

    Args:
        value: observations, for example (B, D).
        logits: for example (k, B, D); shapes broadcast to (..., D), without copies.
        mask, event_dims: as in :func:`gaussian_log_prob`.
        backend: force a backend by name.

    Returns:
        Log-probability in nats, shape (...), float32 or float64.
    """
    checks.floating(value=value, logits=logits)
    return _density("bernoulli", mask, event_dims, backend, value=value, logits=logits)


def negative_binomial_log_prob(
    value: Tensor,
    log_mean: Tensor,
    log_theta: Tensor,
    mask: Tensor | None = None,
    *,
    event_dims: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Compute the log-probability of independent negative binomial counts, summed over the last axis.

    log p = sum_d [log Gamma(x + t) - log Gamma(t) - log x! + x log(m / (t + m)) + t log(t / (t + m))], with mean m and
    inverse dispersion t (theta): the variance is m + m^2 / t (Lopez et al. 2018). The arithmetic of a term is float64
    in a form that does not cancel, whatever the dtypes, and that of the sum is float32 or float64 as for other
    densities.
    ``log_theta`` may be inf, which is the Poisson distribution, and either parameter may be -inf, which allows only a
    count of zero. Both are exact from -1e6 to 700.

    Args:
        value: counts, also of an integer dtype, which is converted to that of the result: above 2^24 a count is rounded
            in float32. Negative numbers are not checked, and their result is unspecified. Its gradient is that of a
            real number.
        log_mean, log_theta: log m and log t. Shapes broadcast to (..., D) with that of ``value``, without copies.
        mask, event_dims: as in :func:`gaussian_log_prob`.
        backend: force a backend by name.

    Returns:
        Log-probability in nats, shape (...), float32 or float64.
    """
    value = counts(value, log_mean, log_theta)
    checks.floating(value=value, log_mean=log_mean, log_theta=log_theta)
    return _density("negative_binomial", mask, event_dims, backend, value=value, log_mean=log_mean, log_theta=log_theta)


def zero_inflated_negative_binomial_log_prob(
    value: Tensor,
    log_mean: Tensor,
    log_theta: Tensor,
    dropout_logits: Tensor,
    mask: Tensor | None = None,
    *,
    event_dims: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Compute the log-probability of negative binomial counts that are replaced by 0 with a probability of their own,
    summed over the last axis (Lopez et al. 2018).

    log p = sum_d log[d 1(x = 0) + (1 - d) NB(x; m, t)], with d = sigmoid(dropout_logits).

    Args:
        value, log_mean, log_theta: as in :func:`negative_binomial_log_prob`.
        dropout_logits: the logits of the probability d that a count is replaced by 0. Shapes broadcast to (..., D).
        mask, event_dims: as in :func:`gaussian_log_prob`.
        backend: force a backend by name.

    Returns:
        Log-probability in nats, shape (...), float32 or float64.
    """
    value = counts(value, log_mean, log_theta, dropout_logits)
    checks.floating(value=value, log_mean=log_mean, log_theta=log_theta, dropout_logits=dropout_logits)
    parameters = {"value": value, "log_mean": log_mean, "log_theta": log_theta, "dropout_logits": dropout_logits}
    return _density("zero_inflated_negative_binomial", mask, event_dims, backend, **parameters)


def counts(value: Tensor, *parameters: Tensor) -> Tensor:
    """Convert counts of an integer dtype to the dtype in which a sum with these parameters is accumulated."""
    if isinstance(value, Tensor) and value.dtype in checks.INTEGERS:
        return value.to(checks.accumulation_dtype(*(p for p in parameters if isinstance(p, Tensor))))
    return value


def _density(name: str, mask: Tensor | None, event_dims: int, backend: str | None, **parameters: Tensor) -> Tensor:
    shape = checks.features(**parameters)
    checks.mask(mask, shape, parameters["value"].device)
    if event_dims != 1:
        leading, event = checks.event(event_dims, shape)
        parameters, mask = flattened(event, parameters, mask)
        shape = (*leading, math.prod(event))
    chosen = choose(backend, (*parameters.values(), mask), f"{name}_log_prob", shape)
    if chosen == REFERENCE:
        return reference.DENSITIES[name](*parameters.values(), mask)
    return applied(DensityFunction)(name, chosen, mask, *same_features(shape[-1], parameters))


class DensityFunction(Fused):
    """The Function of log p(value | parameters), summed over the last axis, for a density by its name in
    :data:`iwae_fast.reference.DENSITIES`."""

    @staticmethod
    def forward(name: str, backend: str, mask: Tensor | None, *parameters: Tensor) -> Tensor:
        return implementation(backend).density(name, parameters, mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name, ctx.backend, mask, *parameters = inputs
        ctx.save_for_backward(mask, *parameters)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs_grad = list(ctx.needs_input_grad[3:])
        gradients = backward_pass(
            f"{ctx.name}_log_prob", _density_backward, (grad,), ctx.name, ctx.backend, needs_grad, *saved(ctx)
        )
        return None, None, None, *scatter_gradients(gradients, needs_grad)


def _density_backward(
    grad: Tensor, name: str, backend: str, needs_grad: list[bool], mask: Tensor | None, *parameters: Tensor
) -> Sequence[Tensor]:
    return implementation(backend).density_backward(name, grad, parameters, mask, needs_grad)
