"""Minus the IWAE bound with a Bernoulli likelihood."""

from __future__ import annotations

from torch import Tensor

from .bernoulli_log_prob import BERNOULLI
from .iwae_loss import iwae_loss, iwae_loss_backward


def bernoulli_iwae_loss(
    value: Tensor, logits: Tensor, log_ratio: Tensor, mask: Tensor | None, reduction: str
) -> tuple[Tensor, Tensor]:
    return iwae_loss(BERNOULLI, (value, logits), log_ratio, mask, reduction)


def bernoulli_iwae_loss_backward(
    grad: Tensor,
    weights: Tensor,
    value: Tensor,
    logits: Tensor,
    mask: Tensor | None,
    reduction: str,
    needs: list[bool],
) -> list[Tensor]:
    return iwae_loss_backward(BERNOULLI, grad, weights, (value, logits), mask, reduction, needs)
