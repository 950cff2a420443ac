"""Tests of thermodynamic_scales: the TVO's loss and an estimator's scales in one launch."""

from __future__ import annotations

import math

import pytest
import torch
from contract import gradients
from devices import device_of, place
from torch import Tensor
from torch.autograd import gradcheck

from iwae_fast import reference
from iwae_fast.backends import NATIVE
from iwae_fast.bounds import TVO
from iwae_fast.objectives.estimators import ESTIMATORS, factors_of, value_and_scales
from iwae_fast.objectives.routing import with_ratio
from iwae_fast.ops.function import supports
from iwae_fast.ops.scales import ScaledLoss, scaled_loss
from iwae_fast.reference import ThermodynamicFactors

OFFERED = [name for name in NATIVE if supports("thermodynamic_scales", name) and NATIVE[name].unavailable() is None]
OWN, CURVED = ThermodynamicFactors((0.0, 0.1, 0.4)), ThermodynamicFactors((0.0, 0.2), 0.7, 1e-3)
KL = 0.4

pytestmark = pytest.mark.parametrize("backend", OFFERED)


def ours(backend: str, terms: list[Tensor], factors: ThermodynamicFactors, reduction: str) -> ScaledLoss:
    return scaled_loss([place(t, device_of(backend)) for t in terms], factors, reduction, KL, backend=backend)


def compared(backend: str, terms: list[Tensor], factors: ThermodynamicFactors, reduction: str) -> None:
    """Compare with the reference in float64."""
    found = ours(backend, terms, factors, reduction)
    loss, bound, log_weights, scales = reference.thermodynamic_scales(
        [t.double() for t in terms], KL, factors, reduction
    )
    wide = torch.float64 if any(term.dtype == torch.float64 for term in terms) else torch.float32
    # A deviation from the mean is multiplied by a weight: its rounding is that of the log-weights.
    allowed = {"rtol": 1e-10, "atol": 1e-10} if wide == torch.float64 else {"rtol": 2e-5, "atol": 4e-6}
    # The decoder's scale goes through 0, near which the ratio is ill-conditioned: its product with that scale is not.
    for our, exa in zip([*found[:3], *found.scales[:2]], [loss, bound, log_weights, *scales[:2]], strict=True):
        assert our.dtype == wide
        torch.testing.assert_close(our.cpu(), exa.to(wide), equal_nan=True, **allowed)
    if found.ratio is not None:
        torch.testing.assert_close(found.ratio * found.decoder, found.encoder, equal_nan=True, **allowed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("factors", [OWN, CURVED, ThermodynamicFactors()])
def test_against_the_reference(backend: str, dtype: torch.dtype, factors: ThermodynamicFactors) -> None:
    for shape, count, reduction in (
        ((1, 5), 1, "mean"),
        ((7, 3), 2, "sum"),
        ((9, 4, 6), 3, "none"),
        ((50, 20), 2, "mean"),
        ((13,), 2, "none"),
        ((3, 300), 2, "mean"),
        ((300, 3), 1, "mean"),
    ):
        compared(backend, [4 * torch.randn(shape).to(dtype) for _ in range(count)], factors, reduction)
    compared(backend, [torch.randn(12, 6).T[::2].to(dtype), torch.randn(3, 12).double()], factors, "mean")


def test_special_columns(backend: str) -> None:
    log_weights = torch.randn(6, 5)
    log_weights[:, 0] = -math.inf
    log_weights[2, 1] = -math.inf
    log_weights[3, 2] = math.nan
    for factors in (OWN, CURVED):
        result = ours(backend, [log_weights], factors, "none")
        assert result.bound[:2].tolist() == [-math.inf, -math.inf]
        assert result.bound[2].isnan()
        assert result.bound[3:].isfinite().all()
        assert (result.decoder[:, 0] == 0).all()
        assert result.decoder[2, 1] == 0
        assert result.decoder[:, 1].isfinite().all()
        empty = ours(backend, [torch.zeros(3, 0)] * 2, factors, "mean")
        assert empty.loss.isnan()
        assert empty.decoder.shape == (3, 0)


@pytest.mark.parametrize("kl_weight", [1.0, 0.4])
@pytest.mark.parametrize("name", ["reparameterized", "stl", "dreg", "gdreg"])
def test_estimators_of_the_bound(backend: str, kl_weight: float, name: str) -> None:
    """Compare with the scales that the estimators' own functions compute from the bound's coefficients."""
    log_weights, bound = 3 * torch.randn(12, 4, dtype=torch.float64), TVO((0.0, 0.1, 0.5))
    log_weights[1, 0] = -math.inf
    value, scales = value_and_scales(ESTIMATORS[name], bound, log_weights, kl_weight)
    scales, ratio = with_ratio(scales, 1e-3)
    factors = factors_of(ESTIMATORS[name], bound, 12, kl_weight, 1e-3)
    assert isinstance(factors, ThermodynamicFactors)
    found = ours(backend, [log_weights], factors, "sum")
    torch.testing.assert_close(found.bound.cpu(), value)
    torch.testing.assert_close([-found.decoder.cpu(), -found.encoder.cpu()], list(scales))
    found_ratio = torch.ones_like(ratio) if found.ratio is None else found.ratio.cpu()
    used = scales.decoder != 0
    torch.testing.assert_close(found_ratio[used], ratio[used])


def test_own_gradient(backend: str) -> None:
    """Check the gradient of the bound by differences, and the gradients in eager mode with those compiled."""

    def loss(*terms: Tensor) -> Tensor:
        return scaled_loss(terms, OWN, "mean", KL, backend=backend).loss

    inputs = [place(torch.randn(6, 3).double(), device_of(backend)).requires_grad_() for _ in range(2)]
    assert gradcheck(loss, inputs, fast_mode=True)
    torch._dynamo.reset()
    compiled = torch.compile(lambda *t: loss(*t).sin(), fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled, inputs, 1), gradients(lambda *t: loss(*t).sin(), inputs, 1))


def test_a_subclass_with_its_own_value_is_composed(backend: str) -> None:
    class Shifted(TVO):
        def __call__(self, log_weights: Tensor) -> Tensor:
            return super().__call__(log_weights) + 1.0

    assert Shifted().partition_of_unit is None
    assert factors_of(ESTIMATORS["dreg"], Shifted(), 4, 1.0, 1e-8) is None
    assert factors_of(ESTIMATORS["vimco"], TVO(), 4, 1.0, 1e-8) is None
    assert supports("thermodynamic_scales", backend)
