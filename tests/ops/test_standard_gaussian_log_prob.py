from __future__ import annotations

import torch
from contract import DensityContract
from devices import run
from torch import Tensor

import iwae_fast as iw
from iwae_fast.reference import LOG_2PI


class TestStandardGaussianLogProb(DensityContract):
    names = ("value",)

    @staticmethod
    def call(*inputs: Tensor, mask: Tensor | None = None, backend: str | None = None) -> Tensor:
        return run(iw.standard_gaussian_log_prob, *inputs, mask=mask, backend=backend)

    @staticmethod
    def example() -> list[Tensor]:
        return [torch.randn(3, 4, 11, dtype=torch.float64)]

    @staticmethod
    def terms(value: Tensor) -> Tensor:
        return value.square() + LOG_2PI

    def test_is_the_gaussian_of_mean_zero_and_scale_one(self) -> None:
        (value,) = self.example()
        zero = torch.zeros((), dtype=torch.float64).expand(11)
        torch.testing.assert_close(self.call(value), iw.gaussian_log_prob(value, zero, zero))
