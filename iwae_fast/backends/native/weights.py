"""The log-mean-exp of importance weights."""

from __future__ import annotations

import torch
from torch import Tensor

from ...checks import accumulation_dtype
from ..marshal import operand
from .base import Native


class Weights(Native):
    """The ops of importance weights on the extension's kernels."""

    def log_mean_exp(self, log_weights: Tensor, dim: int) -> Tensor:
        columns = log_weights.movedim(dim, 0)
        bound = columns.new_empty(columns.shape[1:], dtype=accumulation_dtype(log_weights))
        self.run(
            self.kernels.log_mean_exp,
            columns,
            bound.dtype == torch.float64,
            tuple(columns.shape),
            operand(columns),
            bound.data_ptr(),
        )
        return bound

    def log_mean_exp_backward(self, grad: Tensor, log_weights: Tensor, dim: int) -> Tensor:
        columns = log_weights.movedim(dim, 0)
        gradient = log_weights.new_empty(log_weights.shape)
        self.run(
            self.kernels.log_mean_exp_backward,
            columns,
            log_weights.dtype == torch.float64,
            tuple(columns.shape),
            operand(columns),
            operand(grad),
            operand(gradient.movedim(dim, 0)),
        )
        return gradient
