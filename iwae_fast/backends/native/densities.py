"""Densities over the last axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..marshal import accumulation_dtype, leading_shape, operand, optional_operand
from .device import Native


def gaussian_log_prob(native: Native, value: Tensor, mean: Tensor, log_std: Tensor, mask: Tensor | None) -> Tensor:
    return density(native, "gaussian", (value, mean, log_std), mask)


def gaussian_log_prob_backward(
    native: Native,
    grad: Tensor,
    value: Tensor,
    mean: Tensor,
    log_std: Tensor,
    mask: Tensor | None,
    needs: list[bool],
) -> list[Tensor]:
    return density_backward(native, "gaussian", grad, (value, mean, log_std), mask, needs)


def standard_gaussian_log_prob(native: Native, value: Tensor, mask: Tensor | None) -> Tensor:
    return density(native, "standard_gaussian", (value,), mask)


def standard_gaussian_log_prob_backward(
    native: Native, grad: Tensor, value: Tensor, mask: Tensor | None, needs: list[bool]
) -> list[Tensor]:
    return density_backward(native, "standard_gaussian", grad, (value,), mask, needs)


def bernoulli_log_prob(native: Native, value: Tensor, logits: Tensor, mask: Tensor | None) -> Tensor:
    return density(native, "bernoulli", (value, logits), mask)


def bernoulli_log_prob_backward(
    native: Native, grad: Tensor, value: Tensor, logits: Tensor, mask: Tensor | None, needs: list[bool]
) -> list[Tensor]:
    return density_backward(native, "bernoulli", grad, (value, logits), mask, needs)


def density(
    native: Native,
    name: str,
    parameters: tuple[Tensor, ...],
    mask: Tensor | None,
    kept: Sequence[Tensor | None] = (),
) -> Tensor:
    """The log-density; gradients in its parameters are written to the tensors that are to keep them."""
    dtype = accumulation_dtype(*parameters)
    leading = leading_shape(*parameters)
    shape = (*leading, parameters[0].shape[-1])
    log_prob = parameters[0].new_empty(leading, dtype=dtype)
    native.kernels.density(
        name,
        dtype == torch.float64,
        shape,
        [operand(p) for p in parameters],
        optional_operand(mask),
        log_prob.data_ptr(),
        pointers(kept),
        native.place(log_prob),
    )
    return log_prob


def density_backward(
    native: Native,
    name: str,
    grad: Tensor,
    parameters: tuple[Tensor, ...],
    mask: Tensor | None,
    needs: list[bool],
) -> list[Tensor]:
    shape = (*leading_shape(*parameters), parameters[0].shape[-1])
    gradients = [gradient_like(p) if needed else None for p, needed in zip(parameters, needs, strict=True)]
    native.kernels.density_backward(
        name,
        accumulation_dtype(*parameters) == torch.float64,
        shape,
        [operand(p) for p in parameters],
        optional_operand(mask),
        operand(grad),
        [optional_operand(g) for g in gradients],
        native.place(grad),
    )
    return [g for g in gradients if g is not None]


def gradient_like(tensor: Tensor) -> Tensor:
    # Contiguous whatever the input's strides: an expanded input has no memory of its own to mirror.
    return tensor.new_empty(tensor.shape)


def pointers(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
