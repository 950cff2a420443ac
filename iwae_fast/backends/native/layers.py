"""Dense layers with tanh on the CPU, around torch's matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from ..marshal import pointer
from .base import Native


class Layers(Native):
    """Dense layers on the extension's kernels."""

    def linear_activation(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        activation: str,
        keep: bool,
    ) -> list[Tensor]:
        values = products(hidden, weight)
        if bias is not None:
            bias = bias.contiguous()
        self.run(
            self.kernels.tanh_layer,
            values,
            values.dtype == torch.float64,
            hidden.shape[:-1].numel(),
            weight.shape[0],
            values.data_ptr(),
            pointer(bias),
        )
        return [values]

    def linear_activation_backward(
        self,
        grad: Tensor,
        kept: Tensor | None,
        hidden: Tensor,
        weight: Tensor,
        activation: str,
        needs_grad: Sequence[bool],
        coefficient: Tensor | None = None,
        result: Tensor | None = None,
    ) -> list[Tensor]:
        rows, size = grad.shape[:-1].numel(), grad.shape[-1]
        output, grad = cast(Tensor, kept).contiguous(), grad.contiguous()
        gradient = output.new_empty(rows, size)
        grad_bias = output.new_empty(size)
        self.run(
            self.kernels.tanh_layer_backward,
            output,
            output.dtype == torch.float64,
            rows,
            size,
            output.data_ptr(),
            grad.data_ptr(),
            gradient.data_ptr(),
            grad_bias.data_ptr(),
        )
        gradients = []
        if needs_grad[0]:
            gradients.append(torch.mm(gradient, weight).view(hidden.shape))
        if needs_grad[1]:
            gradients.append(torch.mm(gradient.t(), hidden.reshape(rows, hidden.shape[-1])))
        if needs_grad[2]:
            gradients.append(grad_bias)
        return gradients


def products(hidden: Tensor, weight: Tensor) -> Tensor:
    """Return hidden @ weight.T as a new contiguous tensor."""
    leading = hidden.shape[:-1]
    return torch.mm(hidden.reshape(leading.numel(), hidden.shape[-1]), weight.t()).view(*leading, weight.shape[0])
