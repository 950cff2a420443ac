"""Tests of the Pareto k-hat: on samples of known shape, against an exact fit, and streamed."""

from __future__ import annotations

import math

import pytest
import torch
from pareto_fit import exact_pareto_k

import iwae_fast as iw
from iwae_fast.evaluate.diagnostics import pareto_k, pareto_k_of_largest, tail_size


@pytest.mark.parametrize("shape", [0.1, 0.5, 0.8, 1.5])
def test_shape_of_pareto_weights_is_found(shape: float) -> None:
    """Compare the mean over 200 samples of 10,000 weights, allowing for the prior's weight of 10 draws on 300."""
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


def normal(scale: float) -> list[float]:
    return (scale * torch.randn(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).tolist()


@pytest.mark.parametrize(
    "log_weights",
    [
        pytest.param(torch.linspace(-10_000.0, 0.0, 1000).tolist(), id="one weight holds all"),
        pytest.param([-math.inf] * 290 + normal(1.0)[:10], id="most weights are zero"),
        pytest.param([0.0] * 90 + [1.0] * 10, id="ties at the cutoff"),
        pytest.param([0.0] * 294 + [1.0, 2.0, 3.0, 4.0, 5.0, 600.0], id="ties below a large one"),
        *(pytest.param(normal(scale), id=f"normal with scale {scale}") for scale in (1e-12, 1e-3, 1.0, 30.0, 1e5)),
    ],
)
def test_fit_is_that_of_many_digits(log_weights: list[float]) -> None:
    """Compare with arithmetic of many digits for weights far apart; scaling them does not change the fit."""
    tensor = torch.tensor(log_weights, dtype=torch.float64)
    expected = torch.tensor(exact_pareto_k(tensor), dtype=torch.float64)
    torch.testing.assert_close(pareto_k(tensor), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        pareto_k(torch.stack([tensor, tensor.flip(0)], 1)), expected.expand(2), rtol=1e-12, atol=1e-12
    )


def test_tails_without_a_fit() -> None:
    cases = {
        (0.0,) * 999 + (100.0,): math.inf,  # all that counts is one weight
        (-math.inf,) * 996 + (0.0, 1.0, 2.0, 3.0): math.inf,
        (0.0,) * 999 + (math.inf,): math.inf,
        (0.0,) * 900 + (math.inf,) * 100: math.inf,
        (-math.inf,) * 900 + (0.0,) * 100: -math.inf,  # equal weights
        (0.0,) * 999 + (0.01,): math.nan,  # neither good nor bad
        (-math.inf,) * 1000: math.nan,
        (0.0,) * 999 + (math.nan,): math.nan,
    }
    found = pareto_k(torch.tensor(list(cases)).T)
    torch.testing.assert_close(found, torch.tensor(list(cases.values())).double(), equal_nan=True, rtol=0, atol=0)


def test_discrete_latents_have_a_tail() -> None:
    """Fit the weights of eight states, which have many ties; nearly all observations have a k-hat."""
    torch.manual_seed(0)
    model = iw.models.BernoulliVAE(torch.nn.Linear(16, 3), torch.nn.Linear(3, 16), latent_dim=3)
    found = iw.evaluate.log_likelihood(model, torch.bernoulli(torch.full((50, 16), 0.5)), 1000, seed=1)
    assert found.pareto_k.isnan().double().mean() < 0.05
    assert (found.ess[found.pareto_k < 0.7] > 100).all()


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
