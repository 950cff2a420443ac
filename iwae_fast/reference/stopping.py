"""Upstream gradients of zero in plain torch: where one arrives, no infinite or NaN gradient is propagated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def stopping(function: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """Compute ``function(*parameters)`` such that gradients are zero where the upstream gradient is exactly zero.

    Plain autograd multiplies that zero by derivatives that may have overflowed, and 0 * inf is NaN. The function must
    work element by element or sum over the last axis; then an upstream gradient of zero zeroes its whole row.
    Parameters are broadcast here, so that this happens before gradients are summed. Derivatives of any order, forward
    mode and vmap work as usual.
    """
    parameters = tuple(torch.broadcast_tensors(*parameters))
    if not torch.is_grad_enabled():
        return function(*parameters)
    # Forward mode writes tangents into the tensors passed on, whose elements must not overlap in memory.
    parameters = tuple(parameter.contiguous() for parameter in parameters)
    *guarded, token = _Guard.apply(*parameters)
    return _Coefficient.apply(function(*guarded), token)


class _Guard(Function):
    """Identity on the parameters, with an additional token whose gradient carries the upstream gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*parameters: Tensor) -> tuple[Tensor, ...]:
        return *(parameter.view_as(parameter) for parameter in parameters), torch.zeros_like(parameters[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        *grad_parameters, coefficient = gradients
        stopped = coefficient == 0
        # Only non-finite entries are replaced: the others stay linear in the coefficient, for second derivatives.
        return tuple(torch.where(stopped & ~gradient.isfinite(), 0.0, gradient) for gradient in grad_parameters)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> tuple[Tensor, ...]:
        return *(tangent.view_as(tangent) for tangent in tangents), torch.zeros_like(tangents[0])


class _Coefficient(Function):
    """Identity on the result, which also sends the upstream gradient to the token."""

    generate_vmap_rule = True

    @staticmethod
    def forward(result: Tensor, token: Tensor) -> Tensor:
        return result.clone()  # a view of an input could not be changed in place

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        result, token = inputs
        ctx.summed, ctx.shape = token.dim() - result.dim(), token.shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        by_element = grad.unsqueeze(-1) if ctx.summed else grad
        return grad, by_element.expand(ctx.shape)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: Tensor) -> Tensor:
        return tangent.view_as(tangent)
