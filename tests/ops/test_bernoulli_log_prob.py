from __future__ import annotations

import pytest
import tolerances
import torch
import torch.nn.functional as F
from contract import DensityContract, gradients
from devices import BACKENDS, device_of, run
from torch import Tensor

import iwae_fast as iw


class TestBernoulliLogProb(DensityContract):
    names = ("value", "logits")

    @staticmethod
    def call(*inputs: Tensor, mask: Tensor | None = None, backend: str | None = None) -> Tensor:
        return run(iw.bernoulli_log_prob, *inputs, mask=mask, backend=backend)

    @staticmethod
    def example() -> list[Tensor]:
        return [torch.rand(4, 11, dtype=torch.float64), torch.randn(3, 4, 11, dtype=torch.float64)]

    @staticmethod
    def terms(value: Tensor, logits: Tensor) -> Tensor:
        return (value * logits).abs() + F.softplus(logits)

    def test_is_the_loss_of_torch(self) -> None:
        value, logits = self.example()
        loss = F.binary_cross_entropy_with_logits(logits, value.expand_as(logits), reduction="none")
        torch.testing.assert_close(self.call(value, logits), -loss.sum(-1))

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_extreme_logits(self, backend: str, dtype: torch.dtype) -> None:
        """Test logits over the whole range, one per row: no tail is lost and nothing overflows."""
        borders = torch.tensor([87.0, 87.3, 87.4, 88.8, 104.0, 708.5, 1e30])
        magnitudes = torch.cat([torch.logspace(-30, 4, 400), borders])
        logits = torch.cat([-magnitudes, torch.zeros(1), magnitudes]).to(dtype)[:, None]
        for value in (0.0, 0.3, 1.0):
            inputs = [torch.full_like(logits, value), logits]
            exact, exact_grads = gradients(
                lambda *t: self.call(*t, backend="reference"), [t.double() for t in inputs], 1
            )
            eager, eager_grads = gradients(lambda *t: self.call(*t, backend="reference"), inputs, 1)
            ours, our_grads = gradients(lambda *t: self.call(*t, backend=backend), inputs, 1)
            terms = self.terms(*(t.double() for t in inputs))
            tolerances.assert_no_worse(ours, eager, exact, tolerances.sum_allowance(dtype, terms))
            for our, eag, exa in zip(our_grads, eager_grads, exact_grads, strict=True):
                tolerances.assert_no_worse(our, eag, exa, tolerances.gradient_allowance(dtype, dtype, exa, 4.0))

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("logit", [0.0, 1e-4, 0.7, 88.0])
    def test_equal_logits_over_many_features(self, backend: str, logit: float) -> None:
        """Multiply 100,000 equal factors, the worst case for overflow and for rounding errors."""
        logits = torch.full((1, 100_000), logit)
        value = torch.zeros(100_000)
        exact = self.call(value.double(), logits.double(), backend="reference")
        eager = self.call(value, logits, backend="reference")
        ours = self.call(value, logits, backend=backend)
        terms = self.terms(value.double(), logits.double())
        tolerances.assert_no_worse(ours, eager, exact, tolerances.sum_allowance(torch.float32, terms))

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize(("sizes", "strides"), [((3, 2, 50), (2**30, 100, 1)), ((2, 3, 50), (100, 2**30, 1))])
    def test_offsets_have_64_bits(
        self, backend: str, sizes: tuple[int, ...], strides: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Use strides of 31 bits and offsets of 32, in memory that is never written and so not resident."""
        if device_of(backend) != "cpu":
            pytest.skip("tests/gpu/test_ops_on_gpu.py has a test of this on the device")
        monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
        logits = torch.empty(2**31 + 200, dtype=torch.bfloat16).as_strided(sizes, strides)
        logits.copy_(torch.randn(sizes))
        value = torch.rand(50)
        expected = self.call(value, logits.clone(), backend="reference")
        torch.testing.assert_close(iw.bernoulli_log_prob(value, logits, backend=backend), expected)
