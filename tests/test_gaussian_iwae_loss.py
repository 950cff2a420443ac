from __future__ import annotations

import torch
from devices import run
from loss_contract import FusedLossContract
from torch import Tensor

import iwae_fast as iw


class TestGaussianIWAELoss(FusedLossContract):
    names = ("value", "mean", "log_std", "log_ratio")

    @staticmethod
    def call(
        *inputs: Tensor, mask: Tensor | None = None, reduction: str = "mean", backend: str | None = None
    ) -> Tensor:
        return run(iw.gaussian_iwae_loss, *inputs, mask=mask, reduction=reduction, backend=backend)

    @staticmethod
    def log_prob(*inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        value, mean, log_std = inputs
        terms = torch.distributions.Normal(mean, log_std.exp(), validate_args=False).log_prob(value)
        return (terms if mask is None else torch.where(mask, terms, 0.0)).sum(-1)

    @staticmethod
    def example() -> list[Tensor]:
        # log_std (D,): one learned scale a pixel
        return [torch.randn(*shape, dtype=torch.float64) for shape in ((4, 11), (3, 4, 11), (11,), (3, 4))]


class TestGaussianIWAELossAtOnce(TestGaussianIWAELoss):
    """No gradient is summed over an axis, so that the forward pass makes them all."""

    @staticmethod
    def example() -> list[Tensor]:
        return [torch.randn(*shape, dtype=torch.float64) for shape in ((3, 4, 11), (3, 4, 11), (3, 4, 11), (3, 4))]
