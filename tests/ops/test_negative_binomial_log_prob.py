"""Tests of the densities of counts: the contract, and exact values and gradients over the whole range of parameters."""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar

import exact_densities as exact
import pytest
import tolerances
import torch
from contract import DensityContract
from devices import ALL, BACKENDS, run
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import iwae_fast as iw


def size_of_terms(value: Tensor, log_mean: Tensor, log_theta: Tensor, *dropout: Tensor) -> Tensor:
    """Return what rounding may do to each term: its own size, and what a rounding of its parameters does to it."""
    leaves = [t.detach().requires_grad_() for t in torch.broadcast_tensors(value.abs(), log_mean, log_theta, *dropout)]
    name = "zero_inflated_negative_binomial" if dropout else "negative_binomial"
    function = getattr(iw, f"{name}_log_prob")
    with torch.enable_grad():
        terms = function(*(leaf.unsqueeze(-1) for leaf in leaves), backend="reference")
        slopes = torch.autograd.grad(terms.sum(), leaves)
    moved = sum((slope * leaf).abs() for slope, leaf in zip(slopes, leaves, strict=True))
    return 1.0 + (terms.detach().abs() + moved).nan_to_num(nan=torch.inf)


class CountContract(DensityContract):
    """The contract, where the numbers drawn for the counts are replaced by their absolute values."""

    def test_integers_are_refused(self) -> None:
        for index, name in enumerate(self.names):
            inputs: list[Any] = self.example()
            inputs[index] = 3.0
            with pytest.raises(TypeError, match=f"{name} must be a torch.Tensor, got float"):
                type(self).op(*inputs)
            inputs[index] = torch.zeros(11, dtype=torch.int64) if index else torch.zeros(11, dtype=torch.bool)
            with pytest.raises(TypeError, match=f"{name} must be float32.*{'int64' if index else 'bool'}"):
                type(self).op(*inputs)

    @pytest.mark.parametrize("backend", ALL)
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
    def test_counts_of_any_dtype(self, backend: str, dtype: torch.dtype) -> None:
        value, *others = (t.float() for t in self.example())
        counts = (10 * value).to(dtype)
        expected = type(self).op(counts.float(), *others, backend=backend)
        assert torch.equal(type(self).op(counts, *others, backend=backend), expected)
        double = type(self).op(counts, *(t.double() for t in others), backend=backend)
        assert double.dtype == torch.float64
        torch.testing.assert_close(double.float(), expected, rtol=1e-5, atol=1e-5)

    op: ClassVar[Any]

    @classmethod
    def call(  # type: ignore[override]
        cls, value: Tensor, *others: Tensor, mask: Tensor | None = None, backend: str | None = None
    ) -> Tensor:
        count = (
            value.abs() if isinstance(value, Tensor) and value.is_floating_point() and not value.is_sparse else value
        )
        return run(cls.op, count, *others, mask=mask, backend=backend)


class TestNegativeBinomialLogProb(CountContract):
    names = ("value", "log_mean", "log_theta")
    op = staticmethod(iw.negative_binomial_log_prob)
    terms = staticmethod(size_of_terms)

    @staticmethod
    def example() -> list[Tensor]:
        # value (B, D), log_mean (k, B, D), log_theta (D,): every kind of sum over broadcast axes
        value = torch.rand(4, 11, dtype=torch.float64).mul(5.0).add(0.1)
        return [value, torch.randn(3, 4, 11, dtype=torch.float64), torch.randn(11, dtype=torch.float64)]

    def test_is_the_distribution_of_torch(self) -> None:
        value, log_mean, log_theta = self.example()
        ours = self.call(value.round(), log_mean, log_theta)
        theirs = torch.distributions.NegativeBinomial(log_theta.exp(), logits=log_mean - log_theta)
        torch.testing.assert_close(ours, theirs.log_prob(value.round()).sum(-1))


class TestZeroInflatedNegativeBinomialLogProb(CountContract):
    names = ("value", "log_mean", "log_theta", "dropout_logits")
    op = staticmethod(iw.zero_inflated_negative_binomial_log_prob)
    terms = staticmethod(size_of_terms)

    @staticmethod
    def example() -> list[Tensor]:
        return [*TestNegativeBinomialLogProb.example(), torch.randn(4, 11, dtype=torch.float64)]


def rows() -> list[tuple[float, ...]]:
    """Return counts, log-means, log-thetas and logits of a cell's genes, and of the ends of their ranges."""
    genes = itertools.product((0.0, 1.0, 4.0, 300.0), (-9.0, 0.3, 5.7), (-6.0, 0.0, 2.5, 11.0), (-3.0, 1.0))
    ends = itertools.product((0.0, 1.0, 1e6), (-60.0, 13.8, 80.0), (-200.0, -30.0, 30.0, 80.0), (-80.0, 20.0))
    return [*genes, *ends]


ROWS = rows()


@pytest.fixture(scope="module")
def exact_rows() -> dict[str, Tensor]:
    """Return the log-probability and its derivatives with respect to all but the count, one row each."""
    rounded = torch.tensor(ROWS).double().tolist()
    return {
        "negative_binomial": torch.tensor(
            [exact.value_and_gradient(exact.negative_binomial, tuple(row[:3]), 1) for row in rounded]
        ).double(),
        "zero_inflated_negative_binomial": torch.tensor(
            [exact.value_and_gradient(exact.zero_inflated, tuple(row), 1) for row in rounded], dtype=torch.float64
        ),
    }


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("name", ["negative_binomial", "zero_inflated_negative_binomial"])
def test_float32_has_the_errors_of_float64(name: str, backend: str, exact_rows: dict[str, Tensor]) -> None:
    """Check that a term and its gradients are the exact ones, rounded once to float32, at both ends of theta."""
    expected = exact_rows[name]
    inputs = [column[:, None].clone().requires_grad_() for column in torch.tensor(ROWS).T][: expected.shape[1]]
    result = run(getattr(iw, f"{name}_log_prob"), *inputs, backend=backend)
    gradients = torch.autograd.grad(result.sum(), inputs[1:])
    found = torch.cat([result.detach()[:, None], *gradients], 1)
    assert found.dtype == torch.float32
    limit = torch.finfo(torch.float32)
    expected = torch.where(expected.abs() > limit.max, expected.sign() * math.inf, expected)
    error = torch.where(found == expected, 0.0, (found.double() - expected).abs())
    assert bool((error <= 1.01 * 2.0**-24 * expected.abs() + 2e-10).all())


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=settings.default.max_examples // 4)
@given(
    count=st.sampled_from([0.0, 1.0, 7.0, 1e3, 1e7]),
    log_mean=st.floats(-690.0, 690.0),
    log_theta=st.floats(-1000.0, 1000.0),
    logits=st.floats(-1e4, 1e4),
)
def test_two_formulas_agree(backend: str, count: float, log_mean: float, log_theta: float, logits: float) -> None:
    """Compare the kernels with the reference, which computes another formula, over the range of float64."""
    inputs = [torch.tensor([[x]], dtype=torch.float64) for x in (count, log_mean, log_theta, logits)]
    found, expected = (
        results(iw.zero_inflated_negative_binomial_log_prob, inputs, name) for name in (backend, "reference")
    )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-11)


def results(function: Any, inputs: list[Tensor], backend: str) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in inputs]
    result = run(function, *leaves, backend=backend)
    return [result.detach(), *torch.autograd.grad(result.sum(), leaves[1:])]


@pytest.mark.parametrize("backend", ALL)
def test_probabilities_add_to_one(backend: str) -> None:
    counts = torch.arange(2000.0, dtype=torch.float64)[:, None]
    for log_theta in (-3.0, 0.0, 2.0, math.inf):
        parameters = [torch.tensor([[number]], dtype=torch.float64) for number in (3.0, log_theta, -0.5)]
        log_prob = run(iw.zero_inflated_negative_binomial_log_prob, counts, *parameters, backend=backend)
        assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=2e-3 if log_theta == -3.0 else 1e-12)


def test_the_tolerance_of_a_term_is_a_few_roundings() -> None:
    """Check the sizes that the contract allows for."""
    value, log_mean, log_theta = (torch.tensor([[x]], dtype=torch.float64) for x in (3.0, 1.0, 0.5))
    size = size_of_terms(value, log_mean, log_theta)
    term = iw.negative_binomial_log_prob(value, log_mean, log_theta).abs()
    assert 1.0 + term < size < 5.0 + 2.0 * term
    assert tolerances.sum_allowance(torch.float32, size) < 1e-5
