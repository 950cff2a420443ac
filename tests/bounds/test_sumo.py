"""Tests of SUMO: value, coefficients, the distribution of its random number of samples, and unbiasedness."""

from __future__ import annotations

import math

import pytest
import torch
from linear_gaussian import exact_log_likelihood
from offered_settings import away_from_the_optimum
from torch import Tensor

import iwae_fast as iw
from iwae_fast.bounds import SUMO, Bound


def plain(log_weights: Tensor, survival: list[float]) -> Tensor:
    """Compute SUMO by its definition, L_1 + sum_j (L_{j+1} - L_j) / P(T >= j)."""
    nested = [torch.logsumexp(log_weights[:j], 0) - math.log(j) for j in range(1, len(log_weights) + 1)]
    return nested[0] + sum((b - a) / p for a, b, p in zip(nested, nested[1:], survival, strict=False))


def truncated(truncation: int) -> Bound:
    """Return SUMO at a given T, by the first seed that draws it."""
    sumo = SUMO(4)
    found, k = next(r for r in (sumo.for_call(truncation + 1, s) for s in range(10_000)) if r[1] == truncation + 1)
    assert k == truncation + 1
    return found


@pytest.mark.parametrize("truncation", [1, 2, 3, 4, 5, 9])
def test_value_and_coefficients(truncation: int) -> None:
    survival = [1.0, 1 / 2, 1 / 3, 1 / 4, *(0.9**j / 4 for j in range(1, 10))]
    log_weights = 3.0 * torch.randn(truncation + 1, 5, dtype=torch.float64)
    log_weights.requires_grad_()
    bound = truncated(truncation)
    value = bound(log_weights)
    torch.testing.assert_close(value, plain(log_weights, survival))
    for function, found in (
        (lambda w: plain(w, survival), bound.coefficients(log_weights)),
        (lambda w: -plain(w, survival).square(), bound.for_encoder.coefficients(log_weights)),
    ):
        torch.testing.assert_close(found.value, function(log_weights).detach())
        (g,) = torch.autograd.grad(function(log_weights).sum(), log_weights, create_graph=True)
        torch.testing.assert_close(found.g, g.detach())
        D = torch.stack([torch.autograd.grad(g[i].sum(), log_weights, retain_graph=True)[0][i] for i in range(len(g))])
        torch.testing.assert_close(found.D, D)
    (gradient,) = torch.autograd.grad(value.sum(), log_weights)
    torch.testing.assert_close(gradient, bound.coefficients(log_weights).g)
    torch.testing.assert_close(bound.for_encoder(log_weights), -value.square())


def test_number_of_samples() -> None:
    sumo, draws = SUMO(4), 20_000
    found = torch.tensor([sumo.truncation((i + 0.5) / draws) for i in range(draws)])
    assert found.min() == 1
    for j in range(1, 15):
        assert abs((found >= j).double().mean().item() - sumo.survival(j)) <= 1.0 / draws
    assert sumo.truncation(0.0) < 1000
    assert {sumo.for_call(3, seed)[1] for seed in range(50)} == {2, 3}
    assert sumo.for_call(1, 0)[1] == 1


def test_mean_is_the_likelihood() -> None:
    """Compare the mean with log p(x), and with IWAE's bound for 64 samples, the most that may be drawn."""
    model, x = away_from_the_optimum()
    objective = iw.Objective(SUMO(), num_samples=64, reduction="none")
    draws = x[:1].expand(200, 4)
    means = torch.stack([-objective(model, draws, seed=s).mean().detach() for s in range(300)])
    exact = exact_log_likelihood(model, x[:1]).item()
    assert abs(means.mean().item() - exact) < 5 * means.std().item() / 300**0.5 + 0.02
    iwae = -iw.Objective(iw.bounds.IWAE(), num_samples=2)(model, draws, seed=1).item()
    assert exact - iwae > 0.1  # of which two samples are far


def test_called_by_itself_it_draws_and_says_so() -> None:
    log_weights = torch.randn(30, 4)
    torch.manual_seed(0)
    values = torch.stack([SUMO()(log_weights) for _ in range(20)])
    assert values.std(0).min() > 0
    torch.manual_seed(3)
    value = SUMO()(log_weights)
    torch.manual_seed(3)
    found = SUMO().coefficients(log_weights)
    torch.testing.assert_close(found.value, value)
    assert found.g.shape == found.D.shape == log_weights.shape
    assert repr(SUMO()) == "SUMO(80)"
    with pytest.raises(ValueError, match="tail must be at least 1"):
        SUMO(0)


def test_weights_of_zero() -> None:
    inf = math.inf
    log_weights = torch.tensor([[-inf, -inf, 0.0], [0.0, -inf, -inf], [1.0, -inf, 1.0]], requires_grad=True)
    bound = truncated(2)
    value = bound(log_weights)
    (gradient,) = torch.autograd.grad(value.sum(), log_weights)
    nested = math.log(1.0 / 2), math.log((1.0 + math.e) / 3)
    for column in (0, 2):  # L_1 cancels
        assert value[column].item() == pytest.approx(-nested[0] + 2 * nested[1])
    assert value[1] == -inf
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient.sum(0), torch.tensor([1.0, 0.0, 1.0]))
