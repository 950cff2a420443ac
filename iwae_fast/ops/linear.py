"""A linear layer with what follows it: a Bernoulli likelihood, the whole IWAE loss, or tanh.

The matrix products are torch's, and gradients are written where their inputs were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import checks, reference
from ..backends import REFERENCE, choose
from ..dtypes import WIDE, accumulation_dtype, autocast_dtype
from .densities import bernoulli_log_prob
from .function import (
    Fused,
    apply,
    backward_pass,
    host_value,
    is_host_readable,
    log_ratio_gradient,
    once,
    saved,
    scatter_gradients,
    times_upstream,
    with_memory,
)
from .losses import IWAELoss, IWAEResult, reduced
from .registry import implementation, supports


def linear_bernoulli_log_prob(
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    recompute: bool = True,
    backend: str | None = None,
) -> Tensor:
    """:func:`bernoulli_log_prob` of value and a linear layer's output, whose logits are never stored.

    log p(value | hidden @ weight.T + bias), a tile of rows at a time; the backward pass makes the logits again: a
    fourth matrix product (on a GPU a fifth too) for memory that does not grow with k B D. On a GPU float32 is
    multiplied as ``torch.set_float32_matmul_precision`` says. Without ``recompute`` the forward pass leaves the
    residuals value - sigmoid(logits) where the logits were, all that the backward pass needs: three matrix products,
    and one array of k B D.

    Args:
        value: observations, for example (B, D).
        hidden: the layer's input, for example (k, B, H); its leading axes broadcast with those of ``value``.
        weight, bias: (D, H) and (D,), as of an ``nn.Linear``, of the dtype of ``hidden``. Under autocast all three
            are cast as a linear layer's.
        mask: as in :func:`gaussian_log_prob`.
        recompute: whether to trade a matrix product for memory.
        backend: force a backend by name.

    Returns:
        Log-probability in nats, shape (...), float32 or float64.
    """
    leading, hidden, weight, bias = _linear_bernoulli(value, hidden, weight, bias, mask)
    chosen = choose(backend, (value, hidden, weight, bias, mask), axes=len(leading) + 1)
    if chosen == REFERENCE:
        return reference.linear_bernoulli_log_prob(value, hidden, weight, bias, mask)
    if recompute or not (torch.is_grad_enabled() and _any_requires_grad(hidden, weight, bias, value)):
        return apply(LinearBernoulliRecomputed, chosen, value, hidden, weight, bias, mask)
    in_place = hidden.shape[:-1] == leading and accumulation_dtype(value, hidden) == hidden.dtype
    if value.requires_grad or not in_place or not supports("linear_bernoulli_log_prob_and_residual", chosen):
        return bernoulli_log_prob(value, F.linear(hidden, weight, bias), mask, backend=backend)
    log_prob, *_ = apply(LinearBernoulliFunction, chosen, value, mask, hidden, weight, bias)
    return log_prob


def linear_bernoulli_iwae_loss(
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    log_ratio: Tensor,
    mask: Tensor | None = None,
    reduction: str = "mean",
    *,
    backend: str | None = None,
) -> Tensor:
    """:func:`bernoulli_iwae_loss` of value and a linear layer's output, in one op from the layer to the loss.

    Its forward pass leaves the gradient of the logits where the logits were: three matrix products in all, and one
    array of the size of the logits.

    Args:
        value: observations, for example (B, D).
        hidden: the layer's input, (k, ..., H), k >= 1.
        weight, bias: (D, H) and (D,) or None, as of an ``nn.Linear``, of the dtype of ``hidden``. Under autocast all
            three are cast as a linear layer's.
        log_ratio: log p(z_i) - log q(z_i | x), (k, ...).
        mask: as in :func:`gaussian_log_prob`.
        reduction: "mean" or "sum" over the observations, or "none".
        backend: force a backend by name.

    Returns:
        The loss in nats: a scalar, or with "none" one entry an observation, shape (...).
    """
    return linear_bernoulli_iwae(value, hidden, weight, bias, log_ratio, mask, reduction, backend=backend).loss


def linear_bernoulli_iwae(
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    log_ratio: Tensor,
    mask: Tensor | None = None,
    reduction: str = "mean",
    *,
    backend: str | None = None,
) -> IWAEResult:
    """Compute :func:`linear_bernoulli_iwae_loss` with the bounds and weights that diagnostics are computed from."""
    checks.reduction(reduction)
    leading, hidden, weight, bias = _linear_bernoulli(value, hidden, weight, bias, mask, log_ratio=log_ratio)
    if tuple(log_ratio.shape) != leading or not leading or leading[0] == 0:
        raise ValueError(f"log_ratio must be (k, ...) = {leading} with k >= 1, got {tuple(log_ratio.shape)}")
    chosen = choose(backend, (value, hidden, weight, bias, log_ratio, mask), axes=len(leading) + 1)
    if (
        chosen != REFERENCE
        and supports("linear_bernoulli_iwae_loss", chosen)
        and not value.requires_grad
        and hidden.shape[:-1] == leading
        and accumulation_dtype(value, hidden, log_ratio) == hidden.dtype
    ):
        loss, bound, weights, _ = apply(LinearIWAELoss, chosen, reduction, value, mask, log_ratio, hidden, weight, bias)
        return IWAEResult(loss, bound, weights.detach(), normalized=True)
    logits = F.linear(hidden, weight, bias)
    if chosen != REFERENCE:
        losses, weights = apply(IWAELoss, "bernoulli", chosen, "none", mask, log_ratio, value, logits)
        return IWAEResult(reduced(losses, reduction), -losses.detach(), weights, normalized=True)
    log_weights = reference.bernoulli_log_prob(value, logits, mask) + log_ratio
    bound = reference.log_mean_exp(log_weights, 0)
    weights = reference.normalized_weights(log_weights.detach(), 0)
    return IWAEResult(reduced(-bound, reduction), bound.detach(), weights, normalized=True)


def linear_tanh(hidden: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    """tanh(hidden @ weight.T + bias), a dense layer of the papers' networks.

    Where a backend has kernels for the two halves around the matrix product (bias and tanh in one pass; the gradient
    before the tanh with its sum in one) they serve; elsewhere torch's own operations do.

    Args:
        hidden: (..., H).
        weight, bias: (M, H) and (M,), as of an ``nn.Linear``, of the dtype of ``hidden``. Under autocast all three are
            cast as a linear layer's.
        backend: force a backend by name.

    Returns:
        (..., M), of the dtype of ``hidden``.
    """
    _linear_layer(hidden, weight, bias)
    chosen = choose(backend, (hidden, weight, bias))
    plain = autocast_dtype(hidden.device) is not None or not _one_wide_dtype(hidden, weight, bias)
    if plain or chosen == REFERENCE or not supports("linear_tanh", chosen):
        return torch.tanh(F.linear(hidden, weight, bias))
    return apply(LinearTanh, chosen, hidden, weight, bias)


def _linear_bernoulli(
    value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, **others: Tensor
) -> tuple[tuple[int, ...], Tensor, Tensor, Tensor | None]:
    """The arguments are observations and a linear layer's; returns their leading axes, and the layer as cast."""
    _linear_layer(hidden, weight, bias, value=value, **others)
    leading = checks.broadcast({"value": tuple(value.shape[:-1]), "hidden": tuple(hidden.shape[:-1])})
    if value.dim() == 0 or value.shape[-1] != weight.shape[0]:
        raise ValueError(f"value must be (..., {weight.shape[0]}), got {tuple(value.shape)}")
    checks.mask(mask, (*leading, weight.shape[0]), value.device)
    if (cast := autocast_dtype(hidden.device)) is not None:
        hidden, weight, bias = hidden.to(cast), weight.to(cast), None if bias is None else bias.to(cast)
    if hidden.dtype != weight.dtype or (bias is not None and bias.dtype != weight.dtype):
        raise TypeError(f"hidden, weight and bias must have one dtype, got {hidden.dtype} and {weight.dtype}")
    return leading, hidden, weight, bias


def _linear_layer(hidden: Tensor, weight: Tensor, bias: Tensor | None, **others: Tensor) -> None:
    """The arguments are those of a linear layer, and others on the same device."""
    checks.floating(**others, hidden=hidden, weight=weight, **({} if bias is None else {"bias": bias}))
    if weight.dim() != 2 or hidden.dim() == 0 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} must be (..., H) and (D, H)")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be ({weight.shape[0]},) as weight {tuple(weight.shape)}, got {tuple(bias.shape)}")


def _any_requires_grad(*tensors: Tensor | None) -> bool:
    return any(t is not None and t.requires_grad for t in tensors)


def _one_wide_dtype(*tensors: Tensor | None) -> bool:
    return len(dtypes := {t.dtype for t in tensors if t is not None}) == 1 and dtypes <= set(WIDE)


class LinearBernoulliRecomputed(Fused):
    """log p(value | hidden @ weight.T + bias), whose backward pass computes the logits again."""

    @staticmethod
    def forward(
        backend: str, value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        return implementation(backend).linear_bernoulli_log_prob(value, hidden, weight, bias, mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.backend, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs_grad = list(ctx.needs_input_grad[1:5])
        gradients = backward_pass(
            "linear_bernoulli_log_prob",
            _linear_bernoulli_log_prob_backward,
            (grad,),
            *saved(ctx),
            needs_grad,
            ctx.backend,
        )
        return None, *scatter_gradients(gradients, needs_grad), None


def _linear_bernoulli_log_prob_backward(grad: Tensor, *arguments: Any) -> Sequence[Tensor]:
    *others, backend = arguments
    return implementation(backend).linear_bernoulli_log_prob_backward(grad, *others)


class LinearBernoulliFunction(Fused):
    """log p(value | hidden @ weight.T + bias), whose forward pass leaves the residuals in the place of the logits.

    They come back too, for the backward pass, and carry no gradient; so does a copy of the log-probabilities, which the
    caller keeps to itself: the result may be changed in place. Going back, the incoming gradient weighs the few columns
    of ``hidden`` and of its gradient, not the many of the residuals.
    """

    @staticmethod
    def forward(
        backend: str, value: Tensor, mask: Tensor | None, hidden: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        log_prob, residual = implementation(backend).linear_bernoulli_log_prob_and_residual(
            value, hidden, weight, bias, mask
        )
        return log_prob, residual, log_prob.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        _, _, _, hidden, weight, _ = inputs
        _, residual, log_prob = output
        ctx.mark_non_differentiable(residual)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(log_prob, residual, hidden, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        log_prob, residual, hidden, weight = saved(ctx)
        rows = log_prob.numel()
        scale = with_memory(grad).to(hidden.dtype).reshape(rows, 1)
        residual, inputs = residual.view(rows, residual.shape[-1]), hidden.reshape(rows, hidden.shape[-1])
        # A coefficient of zero gives zero, also where the residual is NaN, as the log-probability then is.
        if not is_host_readable(log_prob) or math.isnan(log_prob.sum().item()):
            stopped = (scale == 0) & log_prob.isnan().reshape(rows, 1)
            residual, inputs = residual.masked_fill(stopped, 0.0), inputs.masked_fill(stopped, 0.0)
        _, _, _, hidden_needed, weight_needed, bias_needed = ctx.needs_input_grad
        gradients = (
            torch.mm(residual, weight).mul_(scale).view(hidden.shape) if hidden_needed else None,
            torch.mm(residual.t(), inputs * scale) if weight_needed else None,
            torch.mv(residual.t(), scale.squeeze(1)) if bias_needed else None,
        )
        return None, None, None, *once(gradients, log_prob)


class LinearIWAELoss(Fused):
    """Minus the IWAE bound of a linear layer and a Bernoulli likelihood, reduced over the observations.

    The forward pass leaves the gradient of the logits in their place. It comes back with the bounds and the normalized
    weights. The caller detaches the weights: they are part of the graph as its anchor, and no gradient goes through
    them.
    """

    @staticmethod
    def forward(
        backend: str,
        reduction: str,
        value: Tensor,
        mask: Tensor | None,
        log_ratio: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return implementation(backend).linear_bernoulli_iwae_loss(
            value, hidden, weight, bias, log_ratio, mask, reduction
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.backend, ctx.reduction, _, _, log_ratio, hidden, weight, _ = inputs
        _, bound, weights, gradient = output
        ctx.mark_non_differentiable(bound, gradient)
        ctx.set_materialize_grads(False)
        ctx.log_ratio_dtype = log_ratio.dtype
        ctx.save_for_backward(weights, gradient, hidden, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 8
        weights, gradient, hidden, weight = saved(ctx)
        grad = with_memory(grad)
        number = host_value(grad)
        if not math.isfinite(number):
            (gradient,) = times_upstream(ctx, [gradient], grad, number, weights)
        rows = weights.numel()
        gradient, inputs = gradient.view(rows, gradient.shape[-1]), hidden.reshape(rows, hidden.shape[-1])
        *_, log_ratio_needed, hidden_needed, weight_needed, bias_needed = ctx.needs_input_grad
        gradients = (
            log_ratio_gradient(ctx, weights, grad, number) if log_ratio_needed else None,
            torch.mm(gradient, weight).view(hidden.shape) if hidden_needed else None,
            torch.mm(gradient.t(), inputs) if weight_needed else None,
            gradient.sum(0) if bias_needed else None,
        )
        if math.isfinite(number) and number != 1.0:  # the results are smaller than what they were made of
            for result in gradients[1:]:
                if result is not None:
                    result.mul_(number) if number else result.zero_()  # 0 times NaN would be NaN
        return None, None, None, None, *once(gradients, weights)


class LinearTanh(Fused):
    """tanh(hidden @ weight.T + bias)."""

    @staticmethod
    def forward(backend: str, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return implementation(backend).linear_tanh(hidden, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.backend, hidden, weight, _ = inputs
        ctx.save_for_backward(output, hidden, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs_grad = list(ctx.needs_input_grad[1:])
        gradients = backward_pass("linear_tanh", _linear_tanh_backward, (grad,), *saved(ctx), needs_grad, ctx.backend)
        return None, *scatter_gradients(gradients, needs_grad)


def _linear_tanh_backward(grad: Tensor, *arguments: Any) -> Sequence[Tensor]:
    *others, backend = arguments
    return implementation(backend).linear_tanh_backward(grad, *others)
