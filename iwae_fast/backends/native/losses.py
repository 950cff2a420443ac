"""The fused losses: minus the IWAE bound from a density's parameters and a log-ratio."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...checks import accumulation_dtype
from ..marshal import DTYPE_CODES, empty_like, gradient_like, operand, optional_operand, pointer
from .base import Native


class Losses(Native):
    """Fused losses on the extension's kernels."""

    def iwae_loss(
        self,
        name: str,
        parameters: Sequence[Tensor],
        log_ratio: Tensor,
        mask: Tensor | None,
        reduction: str,
        saved_gradients: Sequence[Tensor | None] = (),
        bound: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the reduced loss and the normalized weights.

        Gradients of the parameters for an upstream gradient of 1 are written to ``saved_gradients``, and the bounds per
        observation to ``bound``, if given.
        """
        leading = tuple(log_ratio.shape)
        dtype = accumulation_dtype(*parameters, log_ratio)
        weights = empty_like(log_ratio, dtype)
        loss = log_ratio.new_empty(leading[1:] if reduction == "none" else (), dtype=dtype)
        self.run(
            self.kernels.iwae_loss,
            weights,
            name,
            dtype == torch.float64,
            (*leading, parameters[0].shape[-1]),
            list(map(operand, parameters)),
            optional_operand(mask),
            operand(log_ratio),
            reduction,
            weights.data_ptr(),
            loss.data_ptr(),
            pointer(bound),
            list(map(pointer, saved_gradients)),
        )
        return loss, weights

    def iwae_loss_and_gradients(
        self,
        name: str,
        parameters: Sequence[Tensor],
        log_ratio: Tensor,
        mask: Tensor | None,
        reduction: str,
        needs_grad: Sequence[bool],
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        gradients = [gradient_like(p) if needed else None for p, needed in zip(parameters, needs_grad, strict=True)]
        bound = log_ratio.new_empty(log_ratio.shape[1:], dtype=accumulation_dtype(log_ratio, *parameters))
        loss, weights = self.iwae_loss(name, parameters, log_ratio, mask, reduction, gradients, bound)
        return loss, bound, weights, [gradient for gradient in gradients if gradient is not None]

    def iwae_loss_backward(
        self,
        name: str,
        grad: Tensor,
        weights: Tensor,
        parameters: Sequence[Tensor],
        mask: Tensor | None,
        reduction: str,
        needs_grad: Sequence[bool],
    ) -> list[Tensor]:
        leading = tuple(weights.shape)
        gradients = [gradient_like(p) if needed else None for p, needed in zip(parameters, needs_grad, strict=True)]
        weights = weights.contiguous()  # the forward pass returns them contiguous, but vmap passes slices
        grad_log_ratio = gradient_like(weights)
        self.run(
            self.kernels.iwae_loss_backward,
            weights,
            name,
            weights.dtype == torch.float64,
            (*leading, parameters[0].shape[-1]),
            list(map(operand, parameters)),
            optional_operand(mask),
            weights.data_ptr(),
            operand(grad),
            reduction,
            grad_log_ratio.data_ptr(),
            list(map(optional_operand, gradients)),
        )
        return [*(g for g in gradients if g is not None), grad_log_ratio]

    def rescale(self, gradient: Tensor, grad: Tensor, weights: Tensor) -> None:
        self.run(
            self.kernels.rescale,
            gradient,
            DTYPE_CODES[gradient.dtype],
            tuple(gradient.shape),
            gradient.data_ptr(),
            weights.data_ptr(),
            operand(grad),
        )
