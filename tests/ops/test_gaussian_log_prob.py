from __future__ import annotations

import math

import pytest
import torch
from contract import DensityContract
from devices import ALL, BACKENDS, run
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

    @pytest.mark.parametrize("backend", ALL)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_value_that_equals_its_mean_has_its_density_at_every_scale(
        self, backend: str, dtype: torch.dtype
    ) -> None:
        """Test the value and all gradients, also after the chain rule has multiplied them."""
        log_std = torch.tensor(
            [0.0, *(sign * size for size in (60.0, 88.0, 89.0, 104.0, 177.0, 709.0, 711.0, 1e4) for sign in (1, -1))]
        ).to(dtype)[:, None]
        value = torch.linspace(-3.0, 7.0, len(log_std), dtype=dtype)[:, None]
        leaves = [t.clone().requires_grad_() for t in (value, value, log_std)]
        result = self.call(*leaves, backend=backend)
        torch.testing.assert_close(result, -log_std[:, 0] - LOG_2PI / 2)
        for grad, expected in zip(torch.autograd.grad((1e10 * result).sum(), leaves), (0.0, 0.0, -1e10), strict=True):
            assert (grad == expected).all()

    @pytest.mark.parametrize("backend", ALL)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_value_near_its_mean_has_its_density_where_the_reciprocal_of_the_scale_overflows(
        self, backend: str, dtype: torch.dtype
    ) -> None:
        """Expect the exact density where it is finite, otherwise -inf with infinite gradients of the right sign."""
        tiny, log_std = (1e-30, -95.0) if dtype == torch.float32 else (1e-300, -715.0)
        value = torch.tensor([[tiny], [-tiny], [1.0], [-1.0]], dtype=dtype)
        leaves = [value, torch.zeros_like(value), torch.full_like(value, log_std)]
        leaves = [t.requires_grad_() for t in leaves]
        result = self.call(*leaves, backend=backend)
        standardized = math.exp(math.log(tiny) - log_std)
        energy = torch.tensor([standardized**2 / 2] * 2 + [math.inf] * 2, dtype=torch.float64)
        torch.testing.assert_close(result.double(), -energy - log_std - LOG_2PI / 2, rtol=2e-4, atol=0.0)
        grad_value, grad_mean, grad_log_std = torch.autograd.grad(result.sum(), leaves)
        assert torch.equal(grad_value, -grad_mean)
        assert torch.equal(grad_mean.sign(), value.detach().sign())
        assert grad_mean[2:].isinf().all()
        torch.testing.assert_close(grad_log_std[:, 0].double(), 2 * energy - 1.0, rtol=2e-4, atol=0.0)

    @pytest.mark.parametrize("backend", ALL)
    def test_nan_reaches_its_own_gradient(self, backend: str) -> None:
        """Test also a NaN scale under a value that equals its mean."""
        for index in range(3):
            inputs = [torch.zeros(1, 20) for _ in self.names]
            inputs[index][0, 7] = math.nan
            leaves = [t.requires_grad_() for t in inputs]
            grad = torch.autograd.grad(self.call(*leaves, backend=backend).sum(), leaves)[index]
            assert grad.isnan().nonzero().tolist() == [[0, 7]]
