from __future__ import annotations

import math

import pytest
import torch
from contract import DensityContract
from devices import BACKENDS, run
from torch import Tensor

import iwae_fast as iw
from iwae_fast.reference import LOG_2PI


class TestGaussianLogProb(DensityContract):
    names = ("value", "mean", "log_std")

    @staticmethod
    def call(*inputs: Tensor, mask: Tensor | None = None, backend: str | None = None) -> Tensor:
        return run(iw.gaussian_log_prob, *inputs, mask=mask, backend=backend)

    @staticmethod
    def example() -> list[Tensor]:
        # value (k, B, D), mean (B, D), log_std (D,): every kind of sum over broadcast axes
        return [torch.randn(*shape, dtype=torch.float64) for shape in ((3, 4, 11), (4, 11), (11,))]

    @staticmethod
    def terms(value: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        return ((value - mean) / log_std.exp()).square() + log_std.abs() + LOG_2PI

    def test_is_the_density_of_torch_distributions(self) -> None:
        value, mean, log_std = self.example()
        expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(value).sum(-1)
        torch.testing.assert_close(self.call(value, mean, log_std), expected)

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("log_std", [-100.0, -93.0, -80.0, -40.0, 40.0, 80.0, 100.0])
    def test_extreme_scales(self, backend: str, log_std: float) -> None:
        inputs = [torch.zeros(1, 3), torch.full((1, 3), math.exp(-20)), torch.full((1, 3), log_std)]
        result = self.call(*inputs, backend=backend)
        torch.testing.assert_close(result, self.call(*inputs, backend="reference"), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_zero_incoming_gradient_stays_zero_where_the_density_overflows(self, backend: str) -> None:
        mean = torch.ones(2, 3, requires_grad=True)
        log_prob = self.call(torch.zeros(2, 3), mean, torch.tensor([[0.0] * 3, [-80.0] * 3]), backend=backend)
        assert log_prob[1] == -math.inf
        log_prob.backward(torch.tensor([1.0, 0.0]))
        assert torch.equal(mean.grad, torch.tensor([[-1.0] * 3, [0.0] * 3]))
