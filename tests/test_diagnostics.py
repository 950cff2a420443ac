"""The shape of a tail: recovered from samples of known shape, and streamed as at once."""

from __future__ import annotations

import math

import pytest
import torch

import iwae_fast as iw
from iwae_fast.diagnostics import pareto_k, pareto_k_of_largest, tail_size


@pytest.mark.parametrize("shape", [0.1, 0.5, 0.8, 1.5])
def test_shape_of_pareto_weights_is_found(shape: float) -> None:
    """The mean over 200 samples of 10,000 weights, within the prior's pull of 10 draws on 300 and some error."""
    uniform = torch.rand(10_000, 200, dtype=torch.float64)
    weights = torch.expm1(-shape * torch.log1p(-uniform)) / shape
    found = pareto_k(weights.log())
    n = tail_size(10_000)
    expected = (n * shape + 10 * 0.5) / (n + 10)
    assert abs(found.mean().item() - expected) < 5 * found.std().item() / 200**0.5 + 0.02
    assert found.std() < 0.2


def test_light_tails_are_below_heavy_ones() -> None:
    normal = torch.randn(5000, 50, dtype=torch.float64)
    shapes = [pareto_k(scale * normal).median().item() for scale in (0.1, 1.0, 3.0)]
    assert shapes == sorted(shapes)
    assert shapes[0] < 0.3
    assert shapes[2] > 0.7


def test_shift_scale_and_order_change_nothing() -> None:
    log_weights = 2.0 * torch.randn(500, 7, dtype=torch.float64)
    torch.testing.assert_close(pareto_k(log_weights + 300.0), pareto_k(log_weights))
    torch.testing.assert_close(pareto_k(log_weights.flip(0)), pareto_k(log_weights))


def test_special_cases() -> None:
    assert pareto_k(torch.randn(20, 2)).isnan().all()
    assert (pareto_k(torch.zeros(100, 2)) == -math.inf).all()
    log_weights = torch.randn(100, 3)
    log_weights[:, 1] = -math.inf
    log_weights[3, 2] = math.nan
    assert pareto_k(log_weights).isnan().tolist() == [False, True, True]
    assert pareto_k(torch.randn(100, 2, 3).bfloat16()).shape == (2, 3)
    with pytest.raises(ValueError, match="k = 0"):
        pareto_k(torch.ones(0, 3))
    assert tail_size(5000) == 213
    assert tail_size(25) == 5


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 1000])
def test_streamed_as_at_once(chunk_size: int) -> None:
    model, x = iw.models.DenseVAE(16, (4,), (8,)), torch.rand(5, 16)
    result = iw.evaluate.log_likelihood(model, x, 300, chunk_size=chunk_size, seed=1)
    model.eval()
    with torch.no_grad():
        log_weights = model.log_weights(x, 300, 1)
    torch.testing.assert_close(result.pareto_k, pareto_k(log_weights), rtol=1e-4, atol=1e-4)
    largest = log_weights.double().topk(tail_size(300) + 1, dim=0).values
    torch.testing.assert_close(pareto_k_of_largest(largest), pareto_k(log_weights))
    assert iw.evaluate.log_likelihood(model, x, 5).pareto_k.isnan().all()
