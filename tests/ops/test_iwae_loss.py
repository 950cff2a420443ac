from __future__ import annotations

import pytest
import torch
from contract import Contract
from devices import run
from torch import Tensor

import iwae_fast as iw


class TestIWAELoss(Contract):
    names = ("log_weights",)

    @staticmethod
    def call(*inputs: Tensor, backend: str | None = None) -> Tensor:
        return run(iw.iwae_loss, *inputs, backend=backend)

    @staticmethod
    def example() -> list[Tensor]:
        return [3.0 * torch.randn(6, 4, dtype=torch.float64)]


def test_reductions() -> None:
    log_weights = torch.randn(5, 4)
    each = -iw.log_mean_exp(log_weights)
    torch.testing.assert_close(iw.iwae_loss(log_weights, reduction="none"), each)
    torch.testing.assert_close(iw.iwae_loss(log_weights, reduction="sum"), each.sum())
    torch.testing.assert_close(iw.iwae_loss(log_weights), each.mean())
    torch.testing.assert_close(iw.iwae_loss(log_weights.T, dim=1), each.mean())


def test_unknown_reduction() -> None:
    with pytest.raises(ValueError, match="reduction must be one of mean, sum, none, got 'average'"):
        iw.iwae_loss(torch.ones(3, 2), reduction="average")
