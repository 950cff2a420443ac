"""Log-densities, summed over the last axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...checks import accumulation_dtype
from ..marshal import gradient_like, leading_shape, operand, optional_operand, pointer
from .base import Native


class Densities(Native):
    """Densities, on the extension's kernels."""

    def density(
        self,
        name: str,
        parameters: Sequence[Tensor],
        mask: Tensor | None,
        saved_gradients: Sequence[Tensor | None] = (),
    ) -> Tensor:
        """Return the log-density; gradients are written to the tensors in ``saved_gradients`` that are not None."""
        dtype = accumulation_dtype(*parameters)
        leading = leading_shape(*parameters)
        log_prob = parameters[0].new_empty(leading, dtype=dtype)
        self.run(
            self.kernels.density,
            log_prob,
            name,
            dtype == torch.float64,
            (*leading, parameters[0].shape[-1]),
            list(map(operand, parameters)),
            optional_operand(mask),
            log_prob.data_ptr(),
            list(map(pointer, saved_gradients)),
        )
        return log_prob

    def density_backward(
        self, name: str, grad: Tensor, parameters: Sequence[Tensor], mask: Tensor | None, needs_grad: Sequence[bool]
    ) -> list[Tensor]:
        gradients = [gradient_like(p) if needed else None for p, needed in zip(parameters, needs_grad, strict=True)]
        self.run(
            self.kernels.density_backward,
            grad,
            name,
            accumulation_dtype(*parameters) == torch.float64,
            (*leading_shape(*parameters), parameters[0].shape[-1]),
            list(map(operand, parameters)),
            optional_operand(mask),
            operand(grad),
            list(map(optional_operand, gradients)),
        )
        return [g for g in gradients if g is not None]
