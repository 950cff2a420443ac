"""A linear layer with what follows it: the matrix products are torch's, and gradients go where their inputs were."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import registry as ops
from ..function import (
    Fused,
    for_incoming,
    gradients_of,
    log_ratio_gradient,
    may_look,
    number_of,
    once,
    place,
    saved,
    with_memory,
)


class LinearBernoulli(Fused):
    """log p(value | hidden @ weight.T + bias), whose forward pass leaves the residuals in the place of the logits.

    They come back too, for the backward pass, and carry no gradient; so does a copy of the log-probabilities, which the
    caller keeps to itself: the result may be changed in place. Going back, the incoming gradient weighs the few columns
    of ``hidden`` and of its gradient, not the many of the residuals.
    """

    @staticmethod
    def forward(
        backend: str, value: Tensor, mask: Tensor | None, hidden: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        name = "linear_bernoulli_log_prob_and_residual"
        log_prob, residual = ops.call(name, value, hidden, weight, bias, mask, backend=backend)
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
        if not may_look(log_prob) or math.isnan(log_prob.sum().item()):
            stopped = (scale == 0) & log_prob.isnan().reshape(rows, 1)
            residual, inputs = residual.masked_fill(stopped, 0.0), inputs.masked_fill(stopped, 0.0)
        _, _, _, of_hidden, of_weight, of_bias = ctx.needs_input_grad
        gradients = (
            torch.mm(residual, weight).mul_(scale).view(hidden.shape) if of_hidden else None,
            torch.mm(residual.t(), inputs * scale) if of_weight else None,
            torch.mv(residual.t(), scale.squeeze(1)) if of_bias else None,
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
        name = "linear_bernoulli_iwae_loss"
        return ops.call(name, value, hidden, weight, bias, log_ratio, mask, reduction, backend=backend)

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
        number = number_of(grad)
        if not math.isfinite(number):
            (gradient,) = for_incoming(ctx, [gradient], grad, number, weights)
        rows = weights.numel()
        gradient, inputs = gradient.view(rows, gradient.shape[-1]), hidden.reshape(rows, hidden.shape[-1])
        *_, of_log_ratio, of_hidden, of_weight, of_bias = ctx.needs_input_grad
        gradients = (
            log_ratio_gradient(ctx, weights, grad, number) if of_log_ratio else None,
            torch.mm(gradient, weight).view(hidden.shape) if of_hidden else None,
            torch.mm(gradient.t(), inputs) if of_weight else None,
            gradient.sum(0) if of_bias else None,
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
        return ops.call("linear_tanh", hidden, weight, bias, backend=backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name = "linear_tanh"
        ctx.backend, hidden, weight, _ = inputs
        ctx.save_for_backward(output, hidden, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = list(ctx.needs_input_grad[1:])
        gradients = gradients_of(ctx, (grad,), *saved(ctx), needs)
        return None, *place(gradients, needs)
