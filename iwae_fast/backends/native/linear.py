"""Linear layers fused with the operations that follow them. The matrix products are torch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from ...checks import accumulation_dtype
from .. import tiled
from ..marshal import pointer
from .densities import Densities
from .losses import Losses


class Linear(Densities, Losses):
    """Linear layers on torch's matrix products and the extension's kernels."""

    def linear_bernoulli_log_prob(
        self, value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        return tiled.log_prob(self._likelihood(), value, hidden, weight, bias, mask)

    def linear_bernoulli_log_prob_backward(
        self,
        grad: Tensor,
        value: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        mask: Tensor | None,
        needs_grad: Sequence[bool],
    ) -> list[Tensor]:
        return tiled.log_prob_backward(self._likelihood(), grad, value, hidden, weight, bias, mask, needs_grad)

    def _likelihood(self) -> tiled.TileLikelihood:
        return tiled.TileLikelihood(
            lambda value, products, bias, mask: self.density(*_biased(value, products, bias), mask),
            lambda grad, value, logits, mask, needs: self.density_backward(
                "bernoulli", grad, (value, logits), mask, needs
            ),
        )

    def linear_bernoulli_log_prob_and_residual(
        self, value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        logits = products(hidden, weight)  # overwritten by the residual
        return self.density(*_biased(value, logits, bias), mask, (None, logits)), logits

    def linear_bernoulli_iwae_loss(
        self,
        value: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        log_ratio: Tensor,
        mask: Tensor | None,
        reduction: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits = products(hidden, weight)  # overwritten by their gradient
        bound = log_ratio.new_empty(log_ratio.shape[1:], dtype=accumulation_dtype(value, hidden, log_ratio))
        loss, weights = self.iwae_loss(
            *_biased(value, logits, bias), log_ratio, mask, reduction, saved_gradients=(None, logits), bound=bound
        )
        return loss, bound, weights, logits

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


def _biased(value: Tensor, products: Tensor, bias: Tensor | None) -> tuple[str, tuple[Tensor, ...]]:
    """Return the name and the parameters of the density of products, with the bias if there is one; the first two
    parameters are the same with and without."""
    return ("bernoulli", (value, products)) if bias is None else ("biased_bernoulli", (value, products, bias))
