"""Tests of weight_scales: a bound's value and an estimator's scales in one launch."""

from __future__ import annotations

import math

import pytest
import torch
from devices import BACKENDS, device_of, place

from iwae_fast import reference
from iwae_fast.bounds import IWAE, MIWAE, VRIWAE, Bound
from iwae_fast.objectives.estimators import ESTIMATORS, in_one_launch, value_and_scales
from iwae_fast.objectives.routing import with_ratio
from iwae_fast.ops.weights import weight_scales
from iwae_fast.reference import ScaleFactors

FACTORS = ScaleFactors(power=0.7, factor=0.5, linear=-0.3, quadratic=9.0, rounding=0.3)


def compared(backend: str, log_weights: torch.Tensor, factors: ScaleFactors, dim: int = 0) -> None:
    """Compare with the reference in float64."""
    ours = weight_scales(place(log_weights, device_of(backend)), factors, dim, backend=backend)
    exact = reference.weight_scales(log_weights.double(), factors, dim)
    wide = torch.float64 if log_weights.dtype == torch.float64 else torch.float32
    allowed = {"rtol": 1e-11, "atol": 1e-11} if wide == torch.float64 else {"rtol": 2e-6, "atol": 1e-6}
    for our, exa in zip(ours, exact, strict=True):
        assert our.dtype == wide
        torch.testing.assert_close(our.cpu(), exa.to(wide), equal_nan=True, **allowed)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_against_the_reference(backend: str, dtype: torch.dtype) -> None:
    for shape, dim in (((1, 5), 0), ((7, 3), 0), ((7, 3), 1), ((9, 4, 6), 1), ((50, 20), 0), ((13,), 0)):
        compared(backend, 4 * torch.randn(shape).to(dtype), FACTORS, dim)
    compared(backend, torch.randn(12, 6).to(dtype).T[::2], ScaleFactors(), 0)
    compared(backend, torch.randn(6, 4, 8).to(dtype).permute(2, 0, 1)[:, ::2], FACTORS, 0)
    compared(backend, torch.randn(1, 4).to(dtype).expand(3, 4), FACTORS, 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_samples(backend: str) -> None:
    compared(backend, torch.randn(5000, 3), FACTORS)


@pytest.mark.parametrize("backend", BACKENDS)
def test_special_columns(backend: str) -> None:
    log_weights = torch.randn(6, 5)
    log_weights[:, 0] = -math.inf
    log_weights[2, 1] = -math.inf
    log_weights[3, 2] = math.nan
    log_weights[:, 3] -= 1e30
    compared(backend, log_weights, FACTORS)
    value, decoder, encoder, _ = weight_scales(place(log_weights, device_of(backend)), FACTORS, backend=backend)
    assert value[0] == -math.inf
    assert (decoder[:, 0] == 0).all()
    assert (encoder[:, 0] == 0).all()
    assert decoder[2, 1] == 0
    assert value[2].isnan()
    assert value[[1, 3, 4]].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_observations(backend: str) -> None:
    results = weight_scales(place(torch.zeros(3, 0), device_of(backend)), FACTORS, backend=backend)
    assert [tuple(result.shape) for result in results] == [(0,), (3, 0), (3, 0), (3, 0)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bound", [IWAE(), VRIWAE(0.3), VRIWAE(0.75), MIWAE(3)], ids=repr)
@pytest.mark.parametrize("kl_weight", [1.0, 0.4])
def test_estimators_are_their_polynomials(backend: str, bound: Bound, kl_weight: float) -> None:
    """Compare with the scales that the estimators' own functions compute."""
    log_weights = 3 * torch.randn(12, 4, dtype=torch.float64)
    log_weights[1, 0] = -math.inf
    for name, estimator in ESTIMATORS.items():
        if name == "vimco" or (estimator.only_iwae and not bound.is_log_mean_exp):
            continue
        expected, scales = value_and_scales(estimator, bound, log_weights, kl_weight)
        scales, ratio = with_ratio(scales, 1e-3)
        here = place(log_weights, device_of(backend))
        found = in_one_launch(estimator, bound, here, kl_weight, 1e-3, backend)
        assert found is not None
        torch.testing.assert_close(found[0].cpu(), expected)
        torch.testing.assert_close([each.cpu() for each in found[1]], list(scales))
        used = scales.decoder != 0  # elsewhere the ratio multiplies a gradient of 0
        torch.testing.assert_close(found[2].cpu()[used], ratio[used])


def test_other_bounds_and_estimators_are_composed() -> None:
    log_weights = torch.randn(4, 3)
    for bound, name in ((IWAE(), "vimco"), (VRIWAE(0.9), "dreg"), (VRIWAE(-1.0), "dreg"), (VRIWAE(1.5), "dreg")):
        assert in_one_launch(ESTIMATORS[name], bound, log_weights, 1.0, 1e-8, None) is None
    assert in_one_launch(ESTIMATORS["dreg"], IWAE(), log_weights, 1.0, 1e-8, "reference") is None


def test_a_subclass_with_its_own_value_is_composed() -> None:
    class Shifted(IWAE):
        def __call__(self, log_weights: torch.Tensor) -> torch.Tensor:
            return super().__call__(log_weights) + 1.0

    assert Shifted().power_mean is None
    assert IWAE().power_mean is not None
