"""The fused losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..marshal import accumulation_dtype, operand, optional_operand
from .densities import gradient_like, pointers
from .device import Native


def bernoulli_iwae_loss(
    native: Native, value: Tensor, logits: Tensor, log_ratio: Tensor, mask: Tensor | None, reduction: str
) -> tuple[Tensor, Tensor]:
    return iwae_loss(native, "bernoulli", (value, logits), log_ratio, mask, reduction)


def bernoulli_iwae_loss_backward(
    native: Native,
    grad: Tensor,
    weights: Tensor,
    value: Tensor,
    logits: Tensor,
    mask: Tensor | None,
    reduction: str,
    needs: list[bool],
) -> list[Tensor]:
    return iwae_loss_backward(native, "bernoulli", grad, weights, (value, logits), mask, reduction, needs)


def gaussian_iwae_loss(
    native: Native, value: Tensor, mean: Tensor, log_std: Tensor, log_ratio: Tensor, mask: Tensor | None, reduction: str
) -> tuple[Tensor, Tensor]:
    return iwae_loss(native, "gaussian", (value, mean, log_std), log_ratio, mask, reduction)


def gaussian_iwae_loss_backward(
    native: Native,
    grad: Tensor,
    weights: Tensor,
    value: Tensor,
    mean: Tensor,
    log_std: Tensor,
    mask: Tensor | None,
    reduction: str,
    needs: list[bool],
) -> list[Tensor]:
    return iwae_loss_backward(native, "gaussian", grad, weights, (value, mean, log_std), mask, reduction, needs)


def bernoulli_iwae_loss_and_gradients(
    native: Native,
    value: Tensor,
    logits: Tensor,
    log_ratio: Tensor,
    mask: Tensor | None,
    reduction: str,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, list[Tensor]]:
    return loss_and_gradients(native, "bernoulli", (value, logits), log_ratio, mask, reduction, wanted)


def gaussian_iwae_loss_and_gradients(
    native: Native,
    value: Tensor,
    mean: Tensor,
    log_std: Tensor,
    log_ratio: Tensor,
    mask: Tensor | None,
    reduction: str,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, list[Tensor]]:
    return loss_and_gradients(native, "gaussian", (value, mean, log_std), log_ratio, mask, reduction, wanted)


def loss_and_gradients(
    native: Native,
    name: str,
    parameters: tuple[Tensor, ...],
    log_ratio: Tensor,
    mask: Tensor | None,
    reduction: str,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Besides, the gradients of the wanted parameters, of the shape of the whole call, for an incoming one of 1."""
    kept = [gradient_like(p) if want else None for p, want in zip(parameters, wanted, strict=True)]
    loss, weights = iwae_loss(native, name, parameters, log_ratio, mask, reduction, kept)
    return loss, weights, [gradient for gradient in kept if gradient is not None]


def iwae_loss(
    native: Native,
    name: str,
    parameters: tuple[Tensor, ...],
    log_ratio: Tensor,
    mask: Tensor | None,
    reduction: str,
    kept: Sequence[Tensor | None] = (),
    bound: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The reduced loss, and the normalised weights that its gradient needs.

    The gradients of parameters, and the bound of each observation, are written to the tensors that are to have them.
    """
    leading = tuple(log_ratio.shape)
    shape = (*leading, parameters[0].shape[-1])
    dtype = accumulation_dtype(*parameters, log_ratio)
    weights = log_ratio.new_empty(leading, dtype=dtype)
    loss = log_ratio.new_empty(leading[1:] if reduction == "none" else (), dtype=dtype)
    native.kernels.iwae_loss(
        name,
        dtype == torch.float64,
        shape,
        [operand(p) for p in parameters],
        optional_operand(mask),
        operand(log_ratio),
        reduction,
        weights.data_ptr(),
        loss.data_ptr(),
        0 if bound is None else bound.data_ptr(),
        pointers(kept),
        native.place(weights),
    )
    return loss, weights


def iwae_loss_backward(
    native: Native,
    name: str,
    grad: Tensor,
    weights: Tensor,
    parameters: tuple[Tensor, ...],
    mask: Tensor | None,
    reduction: str,
    needs: list[bool],
) -> list[Tensor]:
    """Gradients of the needed parameters, then of the log-ratio (in the dtype of the weights)."""
    leading = tuple(weights.shape)
    shape = (*leading, parameters[0].shape[-1])
    gradients = [gradient_like(p) if needed else None for p, needed in zip(parameters, needs, strict=True)]
    weights = weights.contiguous()  # as the forward made them, but vmap hands over slices
    grad_log_ratio = weights.new_empty(leading)
    native.kernels.iwae_loss_backward(
        name,
        weights.dtype == torch.float64,
        shape,
        [operand(p) for p in parameters],
        optional_operand(mask),
        weights.data_ptr(),
        operand(grad),
        reduction,
        grad_log_ratio.data_ptr(),
        [optional_operand(g) for g in gradients],
        native.place(weights),
    )
    return [*(g for g in gradients if g is not None), grad_log_ratio]


def rescale(native: Native, gradient: Tensor, grad: Tensor, weights: Tensor) -> None:
    """A gradient (k, ..., D) that the forward pass made for an incoming one of 1, times that which came, in place; 0
    where the weight is. For GPUs, which need not wait to see whether it is 1 after all."""
    native.kernels.rescale(
        gradient.dtype == torch.float64,
        tuple(gradient.shape),
        gradient.data_ptr(),
        weights.data_ptr(),
        operand(grad),
        native.place(gradient),
    )
