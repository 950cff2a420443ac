"""Importance weights."""

from __future__ import annotations

import torch
from torch import Tensor

from ..marshal import accumulation_dtype, operand
from .device import Native


def log_mean_exp(native: Native, log_weights: Tensor, dim: int) -> Tensor:
    columns = log_weights.movedim(dim, 0)
    bound = columns.new_empty(columns.shape[1:], dtype=accumulation_dtype(log_weights))
    native.kernels.log_mean_exp(
        bound.dtype == torch.float64,
        tuple(columns.shape),
        operand(columns),
        bound.data_ptr(),
        native.place(columns),
    )
    return bound


def log_mean_exp_backward(native: Native, grad: Tensor, log_weights: Tensor, dim: int) -> Tensor:
    columns = log_weights.movedim(dim, 0)
    shape = tuple(columns.shape)
    gradient = log_weights.new_empty(log_weights.shape)
    native.kernels.log_mean_exp_backward(
        log_weights.dtype == torch.float64,
        shape,
        operand(columns),
        operand(grad),
        operand(gradient.movedim(dim, 0)),
        native.place(columns),
    )
    return gradient
