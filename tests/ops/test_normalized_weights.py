"""Tests of normalized_weights and effective_sample_size."""

from __future__ import annotations

import math

import pytest
import torch
from devices import ALL, BACKENDS, run

import iwae_fast as iw


def test_weights_are_the_softmax() -> None:
    log_weights = 5 * torch.randn(50, 4, 3, dtype=torch.float64)
    for dim in (0, 1, -1):
        torch.testing.assert_close(iw.normalized_weights(log_weights, dim), log_weights.softmax(dim))


def test_effective_sample_size_of_known_weights() -> None:
    log_weights = torch.tensor([[0.0, 0.0, -math.inf], [0.0, -math.inf, -math.inf], [0.0, math.log(3.0), -math.inf]])
    torch.testing.assert_close(iw.effective_sample_size(log_weights), torch.tensor([3.0, 1.6, 0.0]))
    assert torch.equal(iw.normalized_weights(log_weights)[:, 2], torch.zeros(3))


def test_half_precision_is_widened() -> None:
    log_weights = torch.randn(7, 2).bfloat16()
    assert iw.normalized_weights(log_weights).dtype == torch.float32
    torch.testing.assert_close(iw.normalized_weights(log_weights), log_weights.float().softmax(0))


def test_column_of_minus_infinity_has_zero_gradient() -> None:
    log_weights = torch.full((3, 2), -math.inf)
    log_weights[:, 1] = torch.randn(3)
    log_weights.requires_grad_()
    iw.normalized_weights(log_weights).square().sum().backward()
    assert torch.equal(log_weights.grad[:, 0], torch.zeros(3))
    assert log_weights.grad[:, 1].abs().sum() > 0


def test_nan_stays() -> None:
    log_weights = torch.tensor([[math.nan, 0.0], [0.0, 0.0]])
    assert iw.effective_sample_size(log_weights).isnan().tolist() == [True, False]


def test_no_samples() -> None:
    with pytest.raises(ValueError, match="k = 0"):
        iw.effective_sample_size(torch.ones(0, 3))
    with pytest.raises(TypeError, match="int64"):
        iw.normalized_weights(torch.ones(3, dtype=torch.int64))


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_forced_backend_computes_the_same_weights(backend: str, dtype: torch.dtype) -> None:
    log_weights = torch.randn(6, 4, 3).to(dtype)
    log_weights[:, 1, 1] = -math.inf
    for dim in (0, 2):
        found = run(iw.normalized_weights, log_weights, backend=backend, dim=dim)
        torch.testing.assert_close(found, iw.normalized_weights(log_weights, dim))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forced_backend_does_not_differentiate_them(backend: str) -> None:
    log_weights = torch.randn(6, 4, requires_grad=True)
    message = f"backend '{backend}' is forced but does not differentiate normalized weights"
    with pytest.raises(iw.backends.BackendError, match=message):
        run(iw.normalized_weights, log_weights, backend=backend)
    with pytest.raises(iw.backends.BackendError, match=message):
        torch.func.grad(lambda t: run(iw.normalized_weights, t, backend=backend)[0].sum())(log_weights.detach())
    with torch.no_grad():
        assert not run(iw.normalized_weights, log_weights, backend=backend).requires_grad
    assert iw.normalized_weights(log_weights, backend="reference").requires_grad
    with pytest.raises(ValueError, match="unknown backend 'fast'"):
        iw.normalized_weights(log_weights, backend="fast")
