"""The fused losses: their forward pass keeps weights, or all gradients."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import registry as ops
from ..function import Fused, for_incoming, gradients_of, log_ratio_gradient, number_of, once, place, saved, with_memory


class IWAELoss(Fused):
    """Minus the IWAE bound, reduced over the observations, from the likelihood's parameters and the log-ratio.

    The normalised weights come back too, for the backward pass; they carry no gradient.
    """

    @staticmethod
    def forward(
        name: str, backend: str, reduction: str, mask: Tensor | None, log_ratio: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        return ops.call(name, *parameters, log_ratio, mask, reduction, backend=backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.name, ctx.backend, ctx.reduction, mask, log_ratio, *parameters = inputs
        _, weights = output
        ctx.mark_non_differentiable(weights)
        ctx.set_materialize_grads(False)  # else the engine makes zeros for the weights at every backward
        ctx.log_ratio_dtype = log_ratio.dtype
        ctx.save_for_backward(weights, mask, *parameters)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        weights, mask, *parameters = saved(ctx)
        needs = list(ctx.needs_input_grad[5:])
        *gradients, grad_log_ratio = gradients_of(ctx, (grad,), weights, *parameters, mask, ctx.reduction, needs)
        if grad_log_ratio.dtype != ctx.log_ratio_dtype:
            grad_log_ratio = grad_log_ratio.to(ctx.log_ratio_dtype)
        return None, None, None, None, grad_log_ratio, *place(gradients, needs)


class IWAELossAtOnce(Fused):
    """:class:`IWAELoss` whose forward pass makes the gradients too: each exponential is computed once.

    ``wanted`` says of which parameters; they need the shape of the whole call, and the dtype of its sums. Weights and
    gradients come back for the backward pass alone. The caller keeps the weights to itself: they are part of the graph
    as its anchor, and no gradient goes through them.
    """

    @staticmethod
    def forward(
        name: str,
        backend: str,
        reduction: str,
        mask: Tensor | None,
        wanted: list[bool],
        log_ratio: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        name = f"{name}_and_gradients"
        loss, weights, gradients = ops.call(name, *parameters, log_ratio, mask, reduction, wanted, backend=backend)
        return loss, weights, *gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, ctx.backend, ctx.reduction, _, _, log_ratio, *_ = inputs
        _, weights, *gradients = output
        ctx.mark_non_differentiable(*gradients)
        ctx.set_materialize_grads(False)
        ctx.log_ratio_dtype = log_ratio.dtype
        ctx.save_for_backward(weights, *gradients)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        weights, *gradients = saved(ctx)
        grad = with_memory(grad)
        needs = list(ctx.needs_input_grad[6:])
        number = number_of(grad)
        of_log_ratio = log_ratio_gradient(ctx, weights, grad, number) if ctx.needs_input_grad[5] else None
        gradients = for_incoming(ctx, gradients, grad, number, weights)
        of_log_ratio, *placed = once((of_log_ratio, *place(gradients, needs)), weights)
        return None, None, None, None, None, of_log_ratio, *placed
