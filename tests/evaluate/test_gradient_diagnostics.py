"""Tests of gradient diagnostics: against stacked draws, theoretical signal-to-noise ratios, and known biases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from linear_gaussian import linear_gaussian
from offered_settings import away_from_the_optimum
from torch import Tensor, nn

import iwae_fast as iw
from iwae_fast.bounds import ELBO, IWAE, JVI, PIWAE, VRIWAE
from iwae_fast.evaluate.check_estimator import DIRECTIONS, Probe, student_tail

K = 6


class Noise:
    """A stand-in for an objective: the gradient of every parameter is its bias plus normal noise. The noise of the
    reference is halved, so that paired differences vary."""

    reduction = "mean"

    def __init__(self, scale: float = 1.0, bias: Tensor | float = 0.0) -> None:
        self.scale, self.bias = scale, bias

    def __call__(
        self, model: nn.Module, x: Tensor, *, seed: int, context: Sequence[Tensor] = (), **_: object
    ) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        total = x.sum() + sum(part.sum() for part in context)
        for name, parameter in model.named_parameters():
            noise = self.scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            total = total + (parameter * (noise + (self.bias if name.startswith("a.") else 0.0))).sum()
        return total


def two_groups(size: int) -> nn.Module:
    return nn.ModuleDict({name: nn.Linear(1, size, bias=False, dtype=torch.float64) for name in ("a", "b")})


def draws(objective: Any, model: nn.Module, x: Tensor, num_draws: int, seed: int, part: str) -> Tensor:
    """Return the stacked gradients (num_draws, parameters) of a part, for the seeds that follow from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for name, p in model.named_parameters() if name.startswith(part)]
    rows = []
    for draw in torch.randint(2**63 - 1, (num_draws,), generator=generator).tolist():
        gradients = torch.autograd.grad(objective(model, x, seed=draw), parameters)
        rows.append(torch.cat([g.flatten() for g in gradients]).double())
    return torch.stack(rows)


def slope(ks: list[int], values: list[float]) -> float:
    """Compute the slope of a line through the points on log-log axes."""
    x, y = (torch.tensor(v, dtype=torch.float64).log() for v in (ks, values))
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_signal_to_noise_is_that_of_stacked_draws(dtype: torch.dtype) -> None:
    model, x = away_from_the_optimum()
    model.to(dtype)
    x = x.to(dtype)
    objective, n = iw.Objective(IWAE(), "dreg", K), 40
    found = iw.gradient_snr(objective, model, x, n, seed=3)
    assert list(found) == ["encoder", "decoder"]
    for part, snr in found.items():
        stacked = draws(objective, model, x, n, 3, part)
        mean, variance = stacked.mean(0), stacked.var(0)
        ratios = mean.abs() / variance.sqrt()
        overall = ((mean.square().sum() - variance.sum() / n).clamp(min=0) / variance.sum()).sqrt()
        expected = torch.stack([ratios.median(), ratios.mean(), overall])
        torch.testing.assert_close(torch.tensor(snr, dtype=torch.float64), expected)


def test_signal_to_noise_is_corrected_for_the_noise_of_the_mean() -> None:
    """Compare with known means and variances; only the overall ratio is corrected, as documented."""
    model, x = two_groups(2000), torch.zeros(1)
    found = iw.gradient_snr(Noise(bias=0.2), model, x, 50, seed=1)
    assert found["a"].overall == pytest.approx(0.2, abs=0.02)
    assert found["b"].overall < 0.05
    assert found["b"].median == pytest.approx(0.67 / 50**0.5, rel=0.1)
    assert found["b"].mean == pytest.approx(0.8 / 50**0.5, rel=0.1)


def test_signal_to_noise_goes_with_k_as_theory_says() -> None:
    """Expect sqrt(k) for a decoder and 1/sqrt(k) for an encoder (Rainforth et al. 2018), but sqrt(k) by DReG."""
    ks = [4, 16, 64, 256]
    model, x = away_from_the_optimum()
    standard, dreg = (
        [iw.gradient_snr(iw.Objective(IWAE(), name, k), model, x[:1].expand(25, 4), 50, seed=1) for k in ks]
        for name in ("reparameterized", "dreg")
    )
    assert -0.8 < slope(ks, [snr["encoder"].overall for snr in standard]) < -0.3
    assert 0.3 < slope(ks, [snr["decoder"].overall for snr in standard]) < 0.7
    assert 0.3 < slope(ks, [snr["encoder"].overall for snr in dreg]) < 0.7


def test_signal_to_noise_near_the_optimum() -> None:
    """Expect DReG's slope of one half at parameters N(0, 0.01^2) off the optimum, as in Rainforth et al. 2018."""
    ks = [4, 16, 64, 256]
    model, x = linear_gaussian(data_dim=4, latent_dim=2), torch.randn(1, 4, dtype=torch.float64).expand(10, 4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    found = [iw.gradient_snr(iw.Objective(IWAE(), "dreg", k), model, x, 50, seed=1) for k in ks]
    for part in ("encoder", "decoder"):
        assert slope(ks, [snr[part].overall for snr in found]) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(
    "objective",
    [
        iw.Objective(IWAE(), "dreg", K),
        iw.Objective(VRIWAE(0.4), "dreg", K),
        iw.Objective(PIWAE(2), "dreg", K),
        iw.Objective(JVI(1), "dreg", K),
        iw.Objective(ELBO(), "stl", K),
        iw.Objective(IWAE(), "dreg", K, budget=2),
        iw.Objective(IWAE(), num_samples=K, chunk_size=4, reduction="sum"),
    ],
    ids=lambda o: f"{o}{o.budget or ''}{o.chunk_size or ''}",
)
def test_unbiased_estimators_pass(objective: iw.Objective) -> None:
    model, x = away_from_the_optimum()
    check = iw.check_estimator(objective, model, x[:1].expand(20, 4), 60, seed=1)
    assert check.biased() == ()
    assert list(check.groups) == ["encoder", "decoder"]
    assert all(group.relative_bias < 0.3 for group in check.groups.values())
    assert "no bias found (60 draws" in str(check)


@pytest.mark.parametrize("num_rows", [3, 100])
def test_sticking_the_landing_is_found_biased_for_iwae(num_rows: int) -> None:
    model, x = away_from_the_optimum()
    check = iw.check_estimator(iw.Objective(IWAE(), "stl", K), model, x[:1].expand(num_rows, 4), 100, seed=1)
    assert check.biased() == ("encoder",)
    assert check.biased(1e-6) == ("encoder",)
    assert check.groups["encoder"].relative_bias > 0.5
    assert check.groups["decoder"].relative_bias < 1e-12
    assert "bias found in encoder (100 draws" in str(check)


def test_another_scale_is_found_and_measured() -> None:
    """Measure the bias of AISLE-chi2, which is 2k times DReG, hence 2k - 1 relative to it."""
    model, x = away_from_the_optimum()
    objective = iw.Objective(IWAE(), "aisle-chi2", K)
    check = iw.check_estimator(objective, model, x[:1].expand(200, 4), 60, seed=1)
    assert check.biased() == ("encoder",)
    assert check.groups["encoder"].relative_bias == pytest.approx(2 * K - 1, rel=0.1)
    dreg = iw.Objective(IWAE(), "dreg", K)
    assert check.groups["encoder"].snr.overall == pytest.approx(
        iw.gradient_snr(dreg, model, x[:1].expand(200, 4), 60, seed=1)["encoder"].overall
    )


def test_another_direction_against_a_reference_of_its_own() -> None:
    model, x = away_from_the_optimum()
    x = x[:1].expand(50, 4)
    rws, rws_dreg = (iw.Objective(IWAE(), name, K) for name in ("rws", "rws-dreg"))
    assert iw.check_estimator(rws_dreg, model, x, 60, seed=1).biased() == ("encoder",)
    assert iw.check_estimator(rws_dreg, model, x, 60, reference=rws, seed=1).biased() == ()


def test_rounding_is_no_bias() -> None:
    """Check that differences of rounding in float32, all in one direction, are not reported as bias."""
    model, x = iw.models.DenseVAE(64, (8,), (16,)), torch.rand(10, 64)
    check = iw.check_estimator(iw.Objective(IWAE(), num_samples=K, chunk_size=4), model, x, 60, seed=1)
    assert all(group.p_value == 1.0 for group in check.groups.values())
    assert all(group.relative_bias < 1e-6 for group in check.groups.values())


@pytest.mark.parametrize("parameters", [1, 30])
def test_false_positives_are_as_rare_as_the_level_says(parameters: int) -> None:
    """Count the false positives in 500 tests of pure noise, correlated between parameters."""
    n, mix = 40, torch.randn(parameters, parameters, dtype=torch.float64)
    found = []
    for noise in torch.randn(500, n, parameters, dtype=torch.float64) @ mix:
        chosen, tested = noise.chunk(2)
        probe = Probe(chosen.mean(0), chosen.var(0), torch.full((parameters,), 1e-12, dtype=torch.float64))
        for difference in tested:
            probe.add(difference)
        found.append(min(1.0, DIRECTIONS * probe.p_value()))
    p_values = torch.tensor(found)
    for level in (0.3, 0.1, 0.01, 0.001):
        assert (p_values < level).sum() <= 500 * level + 4 * math.sqrt(500 * level)
    assert (p_values < 0.3).sum() > 50  # and it does look


def test_bias_in_few_and_in_many_parameters_is_found() -> None:
    """Test biases of twice the sizes that the docstring names."""
    size, n = 400, 100
    model, x = two_groups(size), torch.zeros(1)
    spread = 0.5 * math.sqrt(20 * math.sqrt(size) / n / size)  # half: of differences whose std is 0.5
    one = torch.zeros(size, 1, dtype=torch.float64)
    one[7] = 0.5 * 16 / math.sqrt(n)
    for bias in (one, spread):
        check = iw.check_estimator(Noise(bias=bias), model, x, n, reference=Noise(0.5), seed=1)
        assert check.biased() == ("a",)
    constant = iw.check_estimator(Noise(bias=1e-3), model, x, n, reference=Noise(), seed=1)
    assert constant.biased() == ("a",)  # a difference without any noise
    assert constant.groups["a"].p_value == 0.0


def test_seed_decides_bit_for_bit() -> None:
    model, x = away_from_the_optimum()
    objective = iw.Objective(IWAE(), "dreg", K)
    assert iw.gradient_snr(objective, model, x, 10, seed=7) == iw.gradient_snr(objective, model, x, 10, seed=7)
    assert iw.gradient_snr(objective, model, x, 10, seed=7) != iw.gradient_snr(objective, model, x, 10, seed=8)
    assert iw.check_estimator(objective, model, x, 30, seed=7) == iw.check_estimator(objective, model, x, 30, seed=7)
    torch.manual_seed(1)
    first = iw.gradient_snr(objective, model, x, 10)
    assert first != iw.gradient_snr(objective, model, x, 10)
    torch.manual_seed(1)
    assert first == iw.gradient_snr(objective, model, x, 10)


def test_the_model_is_left_as_it_was() -> None:
    model = iw.models.VAE(
        nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), Halves()), nn.Linear(2, 6), latent_dim=2
    ).train()
    model.decoder.eval()
    x = torch.rand(5, 6).round()
    for parameter in model.decoder.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():  # which the gradients do without
        iw.gradient_snr(iw.Objective(IWAE(), num_samples=2), model, x, 5)
        iw.check_estimator(iw.Objective(IWAE(), num_samples=2), model, x, 30)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model.encoder.training
    assert not model.decoder.training
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all((p.grad == 1).all() for p in model.decoder.parameters())


def test_groups_frozen_and_unreached_parameters() -> None:
    model, x = away_from_the_optimum()
    model.spare = nn.Linear(2, 2, dtype=torch.float64)
    objective = iw.Objective(IWAE(), "dreg", K)
    assert list(iw.gradient_snr(objective, model, x, 4)) == ["encoder", "decoder"]
    assert list(iw.check_estimator(objective, model, x, 30).groups) == ["encoder", "decoder"]
    by_kind = iw.gradient_snr(objective, model, x, 4, groups=lambda name: name.split(".")[-1], seed=1)
    assert list(by_kind) == ["weight", "bias", "log_std"]
    stacked = draws(objective, model, x, 4, 1, "encoder.bias"), draws(objective, model, x, 4, 1, "decoder.bias")
    bias = torch.cat(stacked, 1)
    assert by_kind["bias"].mean == pytest.approx((bias.mean(0).abs() / bias.std(0)).mean().item())
    model.encoder.requires_grad_(False)
    assert list(iw.gradient_snr(objective, model, x, 4)) == ["decoder"]
    assert list(iw.check_estimator(objective, model, x, 30).groups) == ["decoder"]
    with pytest.raises(TypeError, match="groups must return a str, got int for 'decoder.weight'"):
        iw.gradient_snr(objective, model, x, 4, groups=len)
    model.decoder.requires_grad_(False)
    with pytest.raises(ValueError, match="model has no trainable parameters that the loss reaches"):
        iw.gradient_snr(objective, model, x, 4)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="model has no trainable parameters: all are frozen"):
        iw.gradient_snr(objective, model, x, 4)


def test_a_gradient_without_noise_and_one_that_is_zero() -> None:
    model = two_groups(3)
    found = iw.gradient_snr(Noise(scale=0.0, bias=1.0), model, torch.zeros(1), 5)
    assert found["a"].overall == math.inf
    assert math.isnan(found["a"].median)
    assert math.isnan(found["b"].overall)


def test_context_reaches_the_objective() -> None:
    model, x, context = two_groups(3), torch.zeros(1), (torch.ones(2), torch.ones(3))
    seen = []

    class Listening(Noise):
        def __call__(
            self, model: nn.Module, x: Tensor, *, seed: int, context: Sequence[Tensor] = (), **_: object
        ) -> Tensor:
            seen.append(context)
            return super().__call__(model, x, context=context, seed=seed)

    iw.gradient_snr(Listening(), model, x, 2, context=context)
    iw.check_estimator(Listening(), model, x, 30, context=context, reference=Listening())
    assert len(seen) == 62
    assert all(given is context or given == context for given in seen)


def test_arguments_that_are_refused() -> None:
    model, x = away_from_the_optimum()
    objective = iw.Objective(IWAE(), "dreg", K)
    with pytest.raises(ValueError, match="objective must have reduction 'mean' or 'sum'.*got 'none'"):
        iw.gradient_snr(iw.Objective(IWAE(), "reparameterized", 2, reduction="none"), model, x)
    with pytest.raises(ValueError, match="reference must have reduction 'mean' or 'sum'.*got 'none'"):
        iw.check_estimator(objective, model, x, reference=iw.Objective(IWAE(), "reparameterized", 2, reduction="none"))
    with pytest.raises(ValueError, match="reference must have the objective's reduction 'mean', got 'sum'"):
        iw.check_estimator(objective, model, x, reference=iw.Objective(IWAE(), "reparameterized", 2, reduction="sum"))
    with pytest.raises(ValueError, match="num_draws must be at least 2, got 1"):
        iw.gradient_snr(objective, model, x, 1)
    with pytest.raises(ValueError, match="num_draws must be at least 30, got 29"):
        iw.check_estimator(objective, model, x, 29)
    with pytest.raises(TypeError, match="num_draws must be an int, got float"):
        iw.gradient_snr(objective, model, x, 10.0)
    with pytest.raises(ValueError, match=r"seed must be in \[0, 2\^63\), got -1"):
        iw.gradient_snr(objective, model, x, 10, seed=-1)
    with torch.no_grad():
        model.decoder.log_std.fill_(math.nan)
    with pytest.raises(ValueError, match="the gradient of encoder.weight is not finite in the draw with seed"):
        iw.gradient_snr(objective, model, x, 10)


@pytest.mark.parametrize("degrees", [1, 2, 7, 14, 99])
def test_tail_of_students_distribution(degrees: int) -> None:
    """Compare with the integral of the density, substituting t = sqrt(degrees) tan(u)."""
    for t in (-2.0, 0.0, 0.5, 3.0, 8.0):
        total, tail = (
            torch.linspace(first, math.pi / 2, 200_001, dtype=torch.float64)
            for first in (-math.pi / 2, math.atan(t / math.sqrt(degrees)))
        )
        total, tail = (torch.trapezoid(u.cos().clamp(min=0) ** (degrees - 1), u) for u in (total, tail))
        assert student_tail(t, degrees) == pytest.approx((tail / total).item(), abs=1e-9)
    assert student_tail(3.250, 9) == pytest.approx(0.005, rel=1e-3)  # as printed in tables


class Halves(nn.Module):
    def forward(self, value: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = value.chunk(2, -1)
        return mean, log_std
