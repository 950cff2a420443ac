"""Minus the IWAE bound with a Gaussian likelihood."""

from __future__ import annotations

from torch import Tensor

from .gaussian_log_prob import GAUSSIAN
from .iwae_loss import iwae_loss, iwae_loss_backward


def gaussian_iwae_loss(
    value: Tensor, mean: Tensor, log_std: Tensor, log_ratio: Tensor, mask: Tensor | None, reduction: str
) -> tuple[Tensor, Tensor]:
    return iwae_loss(GAUSSIAN, (value, mean, log_std), log_ratio, mask, reduction)


def gaussian_iwae_loss_backward(
    grad: Tensor,
    weights: Tensor,
    value: Tensor,
    mean: Tensor,
    log_std: Tensor,
    mask: Tensor | None,
    reduction: str,
    needs: list[bool],
) -> list[Tensor]:
    return iwae_loss_backward(GAUSSIAN, grad, weights, (value, mean, log_std), mask, reduction, needs)
