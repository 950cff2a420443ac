"""Coefficients of zero in plain torch: where one arrives, nothing that is not finite goes further back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def stopping(function: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """Return ``function(*parameters)``, whose gradients are zero where the incoming gradient is exactly zero.

    By itself autograd multiplies that zero with derivatives that may have overflowed, and 0 * inf is NaN. The function
    works element by element or sums over the last axis, after which a coefficient stops its whole row. Parameters are
    broadcast here, so that what is stopped is not yet summed. All else is as before: derivatives of any order, forward
    mode and vmap.
    """
    parameters = tuple(torch.broadcast_tensors(*parameters))
    if not torch.is_grad_enabled():
        return function(*parameters)
    # Forward mode writes tangents into what is handed on, which must not share memory with itself.
    parameters = tuple(parameter.contiguous() for parameter in parameters)
    *guarded, token = _Guard.apply(*parameters)
    return _Coefficient.apply(function(*guarded), token)


class _Guard(Function):
    """Hands parameters on, and a token that brings the coefficient back beside their gradients."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*parameters: Tensor) -> tuple[Tensor, ...]:
        return *(parameter.view_as(parameter) for parameter in parameters), torch.zeros_like(parameters[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        *of_parameters, coefficient = gradients
        stopped = coefficient == 0
        # Only what is not finite is replaced: all else stays linear in the coefficient, for second derivatives.
        return tuple(torch.where(stopped & ~gradient.isfinite(), 0.0, gradient) for gradient in of_parameters)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> tuple[Tensor, ...]:
        return *(tangent.view_as(tangent) for tangent in tangents), torch.zeros_like(tangents[0])


class _Coefficient(Function):
    """Hands a result on, and its incoming gradient to the token as well."""

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
