"""The loss of a bound with the scales of an estimator, and the selection of samples by them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...reference import ScaleFactors, log_weights_of, loss_of, share_of_loss
from ..marshal import empty_selection, operand
from .base import Native


class SampleScales(Native):
    """Scales on the extension's kernels; torch adds the terms and reduces the loss."""

    def weight_scales(
        self, terms: Sequence[Tensor], kl_weight: float, factors: ScaleFactors, reduction: str
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        log_weights = log_weights_of(terms, kl_weight).contiguous()
        if log_weights is terms[0]:  # a registered op must not return its input
            log_weights = log_weights.clone()
        columns = log_weights.unflatten(0, (factors.groups, -1)).movedim(1, 0)
        value = columns.new_empty(columns.shape[1:])
        scales = [log_weights.new_empty(log_weights.shape) for _ in range(3)]
        share = share_of_loss(log_weights.shape[1:].numel(), reduction) / factors.groups
        self.run(
            self.kernels.weight_scales,
            columns,
            value.dtype == torch.float64,
            tuple(columns.shape),
            operand(columns),
            [factors.power, share, factors.linear, factors.quadratic, factors.rounding],
            value.data_ptr(),
            *(operand(scale.unflatten(0, (factors.groups, -1)).movedim(1, 0)) for scale in scales),
        )
        bound = value.mean(0) if factors.groups > 1 else value.squeeze(0)
        return loss_of(bound, reduction), bound, log_weights, scales[:1] if factors.is_one else scales

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
