"""Dense layers with what follows them: the matrix products are torch's."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .. import tiled as linear
from ..marshal import accumulation_dtype
from .densities import bernoulli_log_prob_backward, density
from .device import Native
from .losses import iwae_loss


def products(hidden: Tensor, weight: Tensor) -> Tensor:
    """hidden @ weight.T, new and contiguous."""
    leading = hidden.shape[:-1]
    return torch.mm(hidden.reshape(leading.numel(), hidden.shape[-1]), weight.t()).view(*leading, weight.shape[0])


def linear_bernoulli_log_prob(
    native: Native, value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
) -> Tensor:
    return linear.log_prob(_likelihood(native), value, hidden, weight, bias, mask)


def linear_bernoulli_log_prob_backward(
    native: Native,
    grad: Tensor,
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    needs: list[bool],
) -> list[Tensor]:
    return linear.log_prob_backward(_likelihood(native), grad, value, hidden, weight, bias, mask, needs)


def _likelihood(native: Native) -> linear.Likelihood:
    return linear.Likelihood(partial(_biased_bernoulli, native), partial(bernoulli_log_prob_backward, native))


def _biased_bernoulli(
    native: Native, value: Tensor, products: Tensor, bias: Tensor | None, mask: Tensor | None
) -> Tensor:
    return density(native, *_named(value, products, bias), mask)


def _named(value: Tensor, products: Tensor, bias: Tensor | None) -> tuple[str, tuple[Tensor, ...]]:
    """The density of products and a bias, and its parameters: those of the first two are in the same places."""
    return ("bernoulli", (value, products)) if bias is None else ("biased_bernoulli", (value, products, bias))


def linear_bernoulli_log_prob_and_residual(
    native: Native, value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The log-probability, and value - sigmoid(logits) in the memory of the logits: what its gradients are made of."""
    logits = products(hidden, weight)
    return density(native, *_named(value, logits, bias), mask, (None, logits)), logits


def linear_bernoulli_iwae_loss(
    native: Native,
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    log_ratio: Tensor,
    mask: Tensor | None,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The reduced loss, the bounds, the normalised weights, and in the memory of the logits their gradient."""
    logits = products(hidden, weight)
    bound = log_ratio.new_empty(log_ratio.shape[1:], dtype=accumulation_dtype(value, hidden, log_ratio))
    loss, weights = iwae_loss(
        native, *_named(value, logits, bias), log_ratio, mask, reduction, kept=(None, logits), bound=bound
    )
    return loss, bound, weights, logits


def linear_tanh(native: Native, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    values = products(hidden, weight)
    if bias is not None:
        bias = bias.contiguous()
    native.kernels.tanh_layer(
        values.dtype == torch.float64,
        hidden.shape[:-1].numel(),
        weight.shape[0],
        values.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        native.place(values),
    )
    return values


def linear_tanh_backward(
    native: Native, grad: Tensor, output: Tensor, hidden: Tensor, weight: Tensor, needs: list[bool]
) -> list[Tensor]:
    """The gradients of hidden, weight and bias, of which those that are needed."""
    rows, size = hidden.shape[:-1].numel(), output.shape[-1]
    output, grad = output.contiguous(), grad.contiguous()
    gradient = output.new_empty(rows, size)
    of_bias = output.new_empty(size)
    native.kernels.tanh_layer_backward(
        output.dtype == torch.float64,
        rows,
        size,
        output.data_ptr(),
        grad.data_ptr(),
        gradient.data_ptr(),
        of_bias.data_ptr(),
        native.place(output),
    )
    gradients = []
    if needs[0]:
        gradients.append(torch.mm(gradient, weight).view(hidden.shape))
    if needs[1]:
        gradients.append(torch.mm(gradient.t(), hidden.reshape(rows, hidden.shape[-1])))
    if needs[2]:
        gradients.append(of_bias)
    return gradients
