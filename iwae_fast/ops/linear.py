"""A linear layer fused with the operation that follows it: a Bernoulli likelihood, or the whole IWAE loss.

Matrix products are torch's, except in the kernels of Triton, and gradients overwrite their inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import checks, reference
from ..backends import NATIVE, REFERENCE, choose
from ..backends.serving import MOST_ELEMENTS, number_of_elements
from ..checks import accumulation_dtype, autocast_dtype
from .densities import bernoulli_log_prob
from .function import (
    Fused,
    applied,
    backward_pass,
    host_value,
    implementation,
    is_host_readable,
    log_ratio_gradient,
    once,
    saved,
    scatter_gradients,
    supports,
    times_upstream,
    with_memory,
)
from .layers import check_layer, layer_backend, layer_backward
from .losses import IWAELoss, IWAEResult, composed_iwae, reduced


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
    """Compute :func:`bernoulli_log_prob` for the output of a linear layer, without storing the logits.

    log p(value | hidden @ weight.T + bias) is computed a tile of rows at a time. The backward pass recomputes the
    logits: a fourth matrix product in exchange for memory that does not grow with k B D. On a GPU the precision of
    float32 products follows ``torch.set_float32_matmul_precision``. Without ``recompute`` the
    forward pass overwrites the logits by the residuals value - sigmoid(logits), which are all that the backward pass
    needs: three matrix products, and one array of k B D.

    Args:
        value: observations, for example (B, D).
        hidden: the layer's input, for example (k, B, H); its leading axes broadcast with those of ``value``.
        weight, bias: (D, H) and (D,), as in ``nn.Linear``, with the dtype of ``hidden``. Under autocast all three are
            cast like the arguments of a linear layer.
        mask: as in :func:`gaussian_log_prob`.
        recompute: if True, save memory at the cost of a further matrix product.
        backend: force a backend by name.

    Returns:
        Log-probability in nats, shape (...), float32 or float64.
    """
    leading, hidden, weight, bias = _linear_bernoulli(value, hidden, weight, bias, mask)
    chosen = choose(backend, (value, hidden, weight, bias, mask), "linear_bernoulli_log_prob", (*leading, len(weight)))
    if chosen == REFERENCE:
        return reference.linear_bernoulli_log_prob(value, hidden, weight, bias, mask)
    if recompute or not (torch.is_grad_enabled() and _any_requires_grad(hidden, weight, bias, value)):
        return applied(LinearBernoulliRecomputed)(chosen, value, hidden, weight, bias, mask)
    products = _products_backend(backend, hidden, weight, bias)
    if not _stores_residuals(chosen, leading, value, hidden, weight, bias):
        return bernoulli_log_prob(value, F.linear(hidden, weight, bias), mask, backend=backend)
    log_prob, *_ = applied(LinearBernoulliFunction)(chosen, products, value, mask, hidden, weight, bias)
    return log_prob


def linear_bernoulli_iwae_loss(
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    log_ratio: Tensor = None,  # type: ignore[assignment]
    mask: Tensor | None = None,
    reduction: str = "mean",
    *,
    backend: str | None = None,
) -> Tensor:
    """Compute :func:`bernoulli_iwae_loss` for the output of a linear layer, in one op from the layer to the loss.

    The forward pass overwrites the logits by their gradient: three matrix products in all, and one array of the size of
    the logits.

    Args:
        value: observations, for example (B, D).
        hidden: the layer's input, (k, ..., H), k >= 1.
        weight, bias: (D, H) and (D,), as in ``nn.Linear``, with the dtype of ``hidden``. Under autocast all three are
            cast like the arguments of a linear layer.
        log_ratio: log p(z_i) - log q(z_i | x), (k, ...); required, and given by name if there is no bias.
        mask: as in :func:`gaussian_log_prob`.
        reduction: "mean" or "sum" over the observations, or "none".
        backend: force a backend by name.

    Returns:
        The loss in nats: a scalar, or with "none" one entry per observation, shape (...).
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
    """Compute :func:`linear_bernoulli_iwae_loss` with the bounds and weights for diagnostics."""
    checks.reduction(reduction)
    leading, hidden, weight, bias = _linear_bernoulli(value, hidden, weight, bias, mask, log_ratio=log_ratio)
    if tuple(log_ratio.shape) != leading or not leading or leading[0] == 0:
        raise ValueError(f"log_ratio must be (k, ...) = {leading} with k >= 1, got {tuple(log_ratio.shape)}")
    chosen = choose(
        backend,
        (value, hidden, weight, bias, log_ratio, mask),
        "linear_bernoulli_iwae_loss",
        (*leading, len(weight)),
    )
    products = _products_backend(backend, hidden, weight, bias)
    if (
        chosen != REFERENCE
        and supports("linear_bernoulli_iwae_loss", chosen)
        and not value.requires_grad
        and hidden.shape[:-1] == leading
        and accumulation_dtype(value, hidden, log_ratio) == hidden.dtype
    ):
        loss, bound, weights, _ = applied(LinearIWAELoss)(
            chosen, products, reduction, value, mask, log_ratio, hidden, weight, bias
        )
        return IWAEResult(loss, bound, weights.detach(), normalized=True)
    if chosen != REFERENCE and _stores_residuals(chosen, leading, value, hidden, weight, bias):
        log_prob, *_ = applied(LinearBernoulliFunction)(chosen, products, value, mask, hidden, weight, bias)
        return composed_iwae(log_prob, log_ratio, reduction, backend)
    logits = F.linear(hidden, weight, bias)
    if chosen != REFERENCE:
        losses, weights = applied(IWAELoss)("bernoulli", chosen, "none", mask, log_ratio, value, logits)
        return IWAEResult(reduced(losses, reduction), -losses.detach(), weights, normalized=True)
    log_weights = reference.bernoulli_log_prob(value, logits, mask) + log_ratio
    bound = reference.log_mean_exp(log_weights, 0)
    weights = reference.normalized_weights(log_weights.detach(), 0)
    return IWAEResult(reduced(-bound, reduction), bound.detach(), weights, normalized=True)


def _products_backend(backend: str | None, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """Return the backend whose ``linear_activation_backward`` makes the gradients of a layer from those of its result,
    or None if products of torch do."""
    results = number_of_elements((*hidden.shape[:-1], len(weight)))
    few = results is not None and results <= MOST_ELEMENTS
    return layer_backend(backend, "none", hidden, weight, bias) if few else None


def _linear_bernoulli(
    value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, **others: Tensor
) -> tuple[tuple[int, ...], Tensor, Tensor, Tensor | None]:
    """Check observations and the arguments of a linear layer; return their leading axes, and the layer's arguments cast
    as under autocast."""
    check_layer(hidden, weight, bias, value=value, **others)
    leading = checks.broadcast({"value": tuple(value.shape[:-1]), "hidden": tuple(hidden.shape[:-1])})
    if value.dim() == 0 or value.shape[-1] != weight.shape[0]:
        raise ValueError(f"value must be (..., {weight.shape[0]}), got {tuple(value.shape)}")
    checks.mask(mask, (*leading, weight.shape[0]), value.device)
    if (cast := autocast_dtype(hidden.device)) is not None:
        hidden, weight, bias = hidden.to(cast), weight.to(cast), None if bias is None else bias.to(cast)
    if hidden.dtype != weight.dtype or (bias is not None and bias.dtype != weight.dtype):
        raise TypeError(f"hidden, weight and bias must have one dtype, got {hidden.dtype} and {weight.dtype}")
    return leading, hidden, weight, bias


def _stores_residuals(
    backend: str, leading: tuple[int, ...], value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> bool:
    """Return True if a forward pass that needs gradients can store residuals in place of logits: no gradient is summed
    over a broadcast axis, and the backend stores residuals in the dtype of ``hidden``."""
    dtypes = {accumulation_dtype(value, hidden), *getattr(NATIVE[backend], "rounded_residuals", ())}
    return (
        torch.is_grad_enabled()
        and _any_requires_grad(hidden, weight, bias)
        and not value.requires_grad
        and hidden.shape[:-1] == leading
        and hidden.dtype in dtypes
        and supports("linear_bernoulli_log_prob_and_residual", backend)
    )


def _any_requires_grad(*tensors: Tensor | None) -> bool:
    return any(t is not None and t.requires_grad for t in tensors)


class LinearBernoulliRecomputed(Fused):
    """The Function of log p(value | hidden @ weight.T + bias) whose backward pass recomputes the logits."""

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
    """The Function of log p(value | hidden @ weight.T + bias) whose forward pass replaces the logits by the residuals.

    The residuals are also returned, for the backward pass, and are not differentiable. A copy of the log-probabilities
    is returned too, which is not passed to the user, who may change the result in place. The backward pass multiplies
    the upstream gradient into the H columns of ``hidden`` and of its gradient, not into the D columns of the residuals,
    which are more.
    """

    @staticmethod
    def forward(
        backend: str,
        products: str | None,
        value: Tensor,
        mask: Tensor | None,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return implementation(backend).linear_bernoulli_log_prob_and_residual(value, hidden, weight, bias, mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.backend, ctx.products, _, _, hidden, weight, _ = inputs
        _, residual, log_prob = output
        ctx.mark_non_differentiable(residual)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(log_prob, residual, hidden, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 7
        log_prob, residual, hidden, weight = saved(ctx)
        if ctx.products is not None:
            needs_grad = list(ctx.needs_input_grad[4:])
            gradients = backward_pass(
                "linear_bernoulli_log_prob",
                _residual_backward,
                (grad,),
                residual,
                hidden,
                weight,
                needs_grad,
                log_prob,
                ctx.products,
            )
            return None, None, None, None, *scatter_gradients(gradients, needs_grad)
        rows = log_prob.numel()
        scale = with_memory(grad).reshape(rows, 1)
        residual, inputs = residual.view(rows, residual.shape[-1]), hidden.reshape(rows, hidden.shape[-1])
        # A coefficient of zero must give zero, also if the residual is NaN; the log-probability is then NaN too.
        if not is_host_readable(log_prob) or math.isnan(log_prob.sum().item()):
            undefined = log_prob.isnan().reshape(rows, 1)
            if getattr(NATIVE[ctx.backend], "residuals_without_nan", False):  # spares two passes over the residuals
                scale = torch.where(undefined & (scale != 0), math.nan, scale)
            else:
                residual = residual.masked_fill(undefined & (scale == 0), 0.0)
            inputs = inputs.masked_fill(undefined & (scale == 0), 0.0)
        *_, hidden_needed, weight_needed, bias_needed = ctx.needs_input_grad
        by_torch = (
            torch.mm(residual, weight).mul_(scale).view(hidden.shape) if hidden_needed else None,
            torch.mm(residual.t(), inputs * scale.to(inputs.dtype)) if weight_needed else None,
            torch.mv(residual.t(), scale.squeeze(1).to(inputs.dtype)) if bias_needed else None,
        )
        return None, None, None, None, *once(by_torch, log_prob)


def _residual_backward(
    grad: Tensor,
    residual: Tensor,
    hidden: Tensor,
    weight: Tensor,
    needs_grad: Sequence[bool],
    log_prob: Tensor,
    products: str,
) -> Sequence[Tensor]:
    """Return the gradients of hidden, weight and bias from residuals that are 0 where they would be NaN."""
    scale = grad.reshape(log_prob.numel()).contiguous()
    return implementation(products).linear_activation_backward(
        residual, None, hidden, weight, "none", needs_grad, scale, log_prob
    )


class LinearIWAELoss(Fused):
    """Minus the IWAE bound with a linear layer and a Bernoulli likelihood, reduced over observations.

    The forward pass overwrites the logits by their gradient, which is returned with the bounds and the normalized
    weights. The caller must detach the weights, which stay in the graph as those of :class:`IWAELossWithGradients` do.
    """

    @staticmethod
    def forward(
        backend: str,
        products: str | None,
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
        ctx.backend, ctx.products, ctx.reduction, _, _, log_ratio, hidden, weight, _ = inputs
        _, bound, weights, gradient = output
        ctx.mark_non_differentiable(bound, gradient)
        ctx.set_materialize_grads(False)
        ctx.log_ratio_dtype = log_ratio.dtype
        ctx.save_for_backward(weights, gradient, hidden, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 9
        weights, gradient, hidden, weight = saved(ctx)
        grad = with_memory(grad)
        number = host_value(grad)
        if not math.isfinite(number):
            (gradient,) = times_upstream(ctx, [gradient], grad, number, weights)
        rows = weights.numel()
        *_, log_ratio_needed, hidden_needed, weight_needed, bias_needed = ctx.needs_input_grad
        of_log_ratio = log_ratio_gradient(ctx, weights, grad, number) if log_ratio_needed else None
        if ctx.products is not None:
            needs_grad = [hidden_needed, weight_needed, bias_needed]
            of_layer = backward_pass(
                "linear_bernoulli_iwae_loss",
                layer_backward,
                (gradient,),
                *(None, hidden, weight, "none", needs_grad, None, None),
                ctx.products,
            )
            gradients = (of_log_ratio, *scatter_gradients(of_layer, needs_grad))
        else:
            gradient, inputs = gradient.view(rows, gradient.shape[-1]), hidden.reshape(rows, hidden.shape[-1])
            gradients = (
                of_log_ratio,
                torch.mm(gradient, weight).view(hidden.shape) if hidden_needed else None,
                torch.mm(gradient.t(), inputs) if weight_needed else None,
                gradient.sum(0) if bias_needed else None,
            )
        if math.isfinite(number) and number != 1.0:  # cheaper than scaling the gradient of the logits
            for result in gradients[1:]:
                if result is not None:
                    result.mul_(number) if number else result.zero_()  # 0 times NaN would be NaN
        return None, None, None, None, None, *once(gradients, weights)
