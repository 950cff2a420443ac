"""The log-mean-exp of importance weights, the scales of estimators, and the selection of samples by them."""

from __future__ import annotations

import torch
from torch import Tensor

from ...checks import accumulation_dtype
from ...reference import ScaleFactors
from ..marshal import empty_selection, operand
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

    def weight_scales(
        self, log_weights: Tensor, factors: ScaleFactors, dim: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        columns = log_weights.movedim(dim, 0)
        value = columns.new_empty(columns.shape[1:], dtype=accumulation_dtype(log_weights))
        decoder, encoder, ratio = (log_weights.new_empty(log_weights.shape, dtype=value.dtype) for _ in range(3))
        self.run(
            self.kernels.weight_scales,
            columns,
            value.dtype == torch.float64,
            tuple(columns.shape),
            operand(columns),
            list(factors),
            value.data_ptr(),
            *(operand(result.movedim(dim, 0)) for result in (decoder, encoder, ratio)),
        )
        return value, decoder, encoder, ratio

    def select_samples(
        self,
        decoder: Tensor,
        encoder: Tensor,
        seed: Tensor,
        budget: int,
        observation_offset: int,
        stream: int,
        rounding: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        count, observations = decoder.shape
        results = empty_selection(decoder, encoder, budget)
        self.run(
            self.kernels.selection,
            decoder,
            results[1].dtype == torch.float64,
            seed.data_ptr(),
            (count, observations, 1),
            (0, observation_offset, stream),
            operand(decoder),
            operand(encoder),
            budget,
            rounding,
            [result.data_ptr() for result in results],
        )
        return results
