"""Tests of a linear layer and the IWAE loss in one op."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from contract import Contract
from devices import ALL, BACKENDS, run
from torch import Tensor

import iwae_fast as iw
from benchmarks.peak_memory import PeakMemory
from iwae_fast.ops.function import supports
from iwae_fast.ops.linear import linear_bernoulli_iwae


def composed(value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, log_ratio: Tensor) -> Tensor:
    """Compute the loss of each observation by torch alone."""
    logits = F.linear(hidden, weight, bias)
    log_weights = (value * logits + F.logsigmoid(-logits)).sum(-1) + log_ratio
    return math.log(len(log_weights)) - torch.logsumexp(log_weights, 0)


def observations(hidden: object) -> Tensor:
    floating = isinstance(hidden, Tensor) and hidden.is_floating_point()
    return torch.linspace(0.0, 1.0, 44, dtype=hidden.dtype if floating else None).view(4, 11)


class TestLinearBernoulliIWAELoss(Contract):
    names = ("hidden", "weight", "bias", "log_ratio")

    @staticmethod
    def call(
        *inputs: Tensor, mask: Tensor | None = None, reduction: str = "mean", backend: str | None = None
    ) -> Tensor:
        value = observations(inputs[0])
        return run(iw.linear_bernoulli_iwae_loss, value, *inputs, mask=mask, reduction=reduction, backend=backend)

    @staticmethod
    def example() -> list[Tensor]:
        shapes = ((3, 4, 5), (11, 5), (11,), (3, 4))
        return [torch.randn(shape, dtype=torch.float64) for shape in shapes]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast(self, dtype: torch.dtype) -> None:
        leaves = self.leaves(torch.float32)
        with torch.autocast("cpu", dtype=dtype):
            result = self.call(*leaves)
        torch.testing.assert_close(result, self.call(*leaves), rtol=2e-2, atol=2e-2)
        assert all(g.dtype == torch.float32 for g in torch.autograd.grad(result, leaves))

    @pytest.mark.parametrize("backend", ALL)
    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    @pytest.mark.parametrize("incoming", [1.0, -3.0])
    def test_reductions(self, backend: str, reduction: str, incoming: float) -> None:
        leaves = self.leaves()
        each = composed(observations(leaves[0]), *leaves)
        expected = each if reduction == "none" else getattr(each, reduction)()
        loss = self.call(*leaves, reduction=reduction, backend=backend)
        torch.testing.assert_close(loss, expected)
        for passes in (2, 1):
            ours = torch.autograd.grad((incoming * loss).sum(), leaves, retain_graph=passes > 1)
            torch.testing.assert_close(
                ours, torch.autograd.grad((incoming * expected).sum(), leaves, retain_graph=passes > 1)
            )

    @pytest.mark.parametrize("backend", ALL)
    def test_mask_and_no_bias(self, backend: str) -> None:
        hidden, weight, _, log_ratio = leaves = self.leaves()
        mask = torch.rand(4, 11) < 0.5
        ours = self.call(hidden, weight, None, log_ratio, mask=mask, backend=backend)
        expected = iw.bernoulli_iwae_loss(observations(hidden), F.linear(hidden, weight), log_ratio, mask)
        torch.testing.assert_close(ours, expected)
        wanted = [hidden, weight, log_ratio]
        torch.testing.assert_close(torch.autograd.grad(ours, wanted), torch.autograd.grad(expected, wanted))
        assert len(leaves) == 4

    @pytest.mark.parametrize("backend", ALL)
    def test_a_bias_that_is_left_out(self, backend: str) -> None:
        """Check that it is a bias of None."""
        hidden, weight, _, log_ratio = self.leaves()
        loss = run(
            iw.linear_bernoulli_iwae_loss, observations(hidden), hidden, weight, log_ratio=log_ratio, backend=backend
        )
        explicit = self.call(hidden, weight, None, log_ratio, backend=backend)
        torch.testing.assert_close(loss, explicit)
        leaves = [hidden, weight, log_ratio]
        torch.testing.assert_close(torch.autograd.grad(loss, leaves), torch.autograd.grad(explicit, leaves))

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_weights_of_zero_stop_what_is_not_finite(self, backend: str) -> None:
        if not supports("linear_bernoulli_iwae_loss", backend):
            pytest.skip(f"{backend} composes it of others")
        hidden, weight, bias, log_ratio = (t.detach() for t in self.leaves())
        log_ratio[0, :] = -math.inf
        log_ratio[:, 3] = -math.inf
        leaves = [t.requires_grad_() for t in (hidden, weight, bias, log_ratio)]
        loss = self.call(*leaves, reduction="none", backend=backend)
        assert loss[3] == math.inf
        assert all(g.isfinite().all() for g in torch.autograd.grad(loss[:3].sum(), leaves, retain_graph=True))
        incoming = torch.tensor([1.0, math.inf, math.nan, 0.0]).double()
        grad_hidden, *_, grad_log_ratio = torch.autograd.grad(loss, leaves, incoming)
        assert (grad_log_ratio[0] == 0).all()
        assert not grad_log_ratio[1:, 1:3].isfinite().any()
        assert (grad_hidden[0] == 0).all()

    def test_what_diagnostics_are_made_of(self) -> None:
        hidden, weight, bias, log_ratio = self.example()
        for value in (observations(hidden), observations(hidden).requires_grad_()):  # in one op, and composed
            result = linear_bernoulli_iwae(value, hidden, weight, bias, log_ratio)
            log_weights = iw.bernoulli_log_prob(value, F.linear(hidden, weight, bias)) + log_ratio
            torch.testing.assert_close(result.bound, iw.log_mean_exp(log_weights))
            torch.testing.assert_close(result.weights, iw.normalized_weights(log_weights))
            assert not result.bound.requires_grad
            assert not result.weights.requires_grad

    def test_one_array_as_large_as_the_logits(self) -> None:
        value, hidden, log_ratio = torch.rand(5, 4096), torch.randn(20, 5, 8), torch.randn(20, 5)
        weight, bias = torch.randn(4096, 8, requires_grad=True), torch.zeros(4096, requires_grad=True)
        with PeakMemory() as memory:
            iw.linear_bernoulli_iwae_loss(value, hidden, weight, bias, log_ratio).backward()
        logits = 4 * 20 * 5 * 4096
        assert logits <= memory.peak < 1.5 * logits


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_hidden_that_broadcasts_value_that_learns_and_half_precision(dtype: torch.dtype) -> None:
    value, hidden = torch.rand(4, 7).to(dtype), torch.randn(3, 1, 5).to(dtype)
    inputs = [value, hidden, torch.randn(7, 5).to(dtype), torch.randn(7).to(dtype), torch.randn(3, 4)]
    leaves = [t.requires_grad_() for t in inputs]
    ours = iw.linear_bernoulli_iwae_loss(*leaves)
    expected = composed(*(t.double() for t in leaves)).mean()
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(ours.double(), expected, **tolerance)
    for our, exact in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(our, exact, **tolerance)


@pytest.mark.parametrize("shape", [(4,), (3, 5), (0, 4)])
def test_log_ratio_that_does_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"log_ratio must be \(k, ...\) = \(3, 4\) with k >= 1"):
        iw.linear_bernoulli_iwae_loss(torch.rand(4, 7), torch.rand(3, 4, 5), torch.rand(7, 5), None, torch.zeros(shape))


def test_the_log_ratio_is_required() -> None:
    with pytest.raises(TypeError, match="log_ratio must be a torch.Tensor, got NoneType"):
        iw.linear_bernoulli_iwae_loss(torch.rand(4, 7), torch.rand(3, 4, 5), torch.rand(7, 5))


def test_no_axis_of_samples() -> None:
    with pytest.raises(ValueError, match=r"log_ratio must be \(k, ...\) = \(\)"):
        iw.linear_bernoulli_iwae_loss(torch.rand(7), torch.rand(5), torch.rand(7, 5), None, torch.tensor(0.0))
