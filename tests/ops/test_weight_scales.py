"""Tests of weight_scales: a bound's loss and an estimator's scales from the terms of log-weights, in one launch."""

from __future__ import annotations

import math

import pytest
import torch
from contract import gradients
from devices import BACKENDS, device_of, place
from torch import Tensor
from torch.autograd import gradcheck

from iwae_fast import reference
from iwae_fast.bounds import IWAE, MIWAE, VRIWAE, Bound
from iwae_fast.objectives.estimators import ESTIMATORS, factors_of, value_and_scales
from iwae_fast.objectives.routing import with_ratio
from iwae_fast.ops.scales import ScaledLoss, scaled_loss
from iwae_fast.reference import ScaleFactors

FACTORS = ScaleFactors(power=0.7, linear=-0.3, quadratic=9.0, rounding=0.3)
OWN = ScaleFactors(power=0.7)
KL = 0.4


def ours(backend: str, terms: list[Tensor], factors: ScaleFactors, reduction: str) -> ScaledLoss:
    terms = [place(term, device_of(backend)) for term in terms]
    return scaled_loss(terms, factors, reduction, KL, backend=backend)


def compared(backend: str, terms: list[Tensor], factors: ScaleFactors, reduction: str = "none") -> None:
    """Compare with the reference in float64."""
    found = ours(backend, terms, factors, reduction)
    loss, bound, log_weights, scales = reference.weight_scales([t.double() for t in terms], KL, factors, reduction)
    wide = torch.float64 if any(term.dtype == torch.float64 for term in terms) else torch.float32
    allowed = {"rtol": 1e-11, "atol": 1e-11} if wide == torch.float64 else {"rtol": 2e-6, "atol": 2e-6}
    for our, exa in zip([*found[:3], *found.scales], [loss, bound, log_weights, *scales], strict=True):
        assert our.dtype == wide
        torch.testing.assert_close(our.cpu(), exa.to(wide), equal_nan=True, **allowed)


def random_terms(shape: tuple[int, ...], count: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [4 * torch.randn(shape).to(dtype) for _ in range(count)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_against_the_reference(backend: str, dtype: torch.dtype, reduction: str) -> None:
    for shape, count, factors in (
        ((1, 5), 1, FACTORS),
        ((7, 3), 2, FACTORS),
        ((9, 4, 6), 3, OWN),
        ((50, 20), 2, OWN._replace(groups=5)),
        ((12, 40), 3, FACTORS._replace(groups=3)),
        ((13,), 2, FACTORS),
        ((3, 300), 2, FACTORS),  # several programs, whose parts of the loss are added
    ):
        compared(backend, random_terms(shape, count, dtype), factors, reduction)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_and_dtypes_of_terms(backend: str) -> None:
    compared(backend, [torch.randn(12, 6).T[::2], torch.randn(3, 12).double()], FACTORS, "mean")
    compared(backend, [torch.randn(6, 4, 8).permute(2, 0, 1)[:, ::2], torch.randn(8, 3, 4).half()], FACTORS)
    compared(backend, [torch.randn(1, 4).expand(3, 4), torch.randn(3, 1).expand(3, 4)], OWN._replace(groups=3), "sum")


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_samples(backend: str) -> None:
    compared(backend, [torch.randn(5000, 3), torch.randn(5000, 3)], FACTORS)


@pytest.mark.parametrize("backend", BACKENDS)
def test_special_columns(backend: str) -> None:
    log_weights = torch.randn(6, 5)
    log_weights[:, 0] = -math.inf
    log_weights[2, 1] = -math.inf
    log_weights[3, 2] = math.nan
    log_weights[:, 3] -= 1e30
    compared(backend, [log_weights], FACTORS)
    result = ours(backend, [log_weights], FACTORS, "none")
    assert result.bound[0] == -math.inf
    assert result.loss[0] == math.inf
    assert (result.decoder[:, 0] == 0).all()
    assert (result.encoder[:, 0] == 0).all()
    assert result.decoder[2, 1] == 0
    assert result.bound[2].isnan()
    assert result.bound[[1, 3, 4]].isfinite().all()
    assert ours(backend, [log_weights], OWN, "mean").loss.isnan()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("factors", [FACTORS, OWN])
def test_no_observations(backend: str, factors: ScaleFactors) -> None:
    result = ours(backend, [torch.zeros(3, 0)] * 2, factors, "mean")
    assert result.loss.isnan()
    assert ours(backend, [torch.zeros(3, 0)] * 2, factors, "sum").loss == 0
    shapes = [tuple(tensor.shape) for tensor in (result.bound, result.log_weights, *result.scales)]
    assert shapes == [(0,), *[(3, 0)] * (2 if factors is OWN else 4)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradients_are_the_scales(backend: str, reduction: str) -> None:
    """Compare the gradients of three terms and of a messenger with scales, factors and the ratio."""
    terms, messenger = random_terms((7, 4), 3), torch.zeros(7, 4)
    leaves = [place(t, device_of(backend)).requires_grad_() for t in (*terms, messenger)]
    result = scaled_loss(leaves[:3], FACTORS, reduction, KL, leaves[3], backend=backend)
    incoming = torch.randn(result.loss.shape).to(result.loss.device)
    found = torch.autograd.grad(result.loss, leaves, incoming)
    expected = [result.decoder * incoming, KL * result.decoder * incoming, KL * result.encoder * incoming, result.ratio]
    torch.testing.assert_close(found, tuple(expected))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("groups", [1, 3])
def test_own_gradient(backend: str, groups: int) -> None:
    """Check the gradient of a bound itself by differences, in eager mode and compiled."""
    factors = OWN._replace(groups=groups)

    def loss(*terms: Tensor) -> Tensor:
        return scaled_loss(terms, factors, "mean", KL, backend=backend).loss

    inputs = [place(t, device_of(backend)).requires_grad_() for t in random_terms((6, 3), 2, torch.float64)]
    assert gradcheck(loss, inputs)
    torch._dynamo.reset()
    compiled = torch.compile(lambda *t: loss(*t).sin(), fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled, inputs, 1), gradients(lambda *t: loss(*t).sin(), inputs, 1))
    first = torch.autograd.grad(loss(*inputs), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        first[0].square().sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_upstream_gradient_of_zero_gives_zero(backend: str) -> None:
    """Test columns that are NaN, for a number, for one entry per observation, and where nothing needs a gradient."""
    terms = [place(torch.randn(4, 3), device_of(backend)).requires_grad_() for _ in range(2)]
    with torch.no_grad():
        terms[0][1, 1] = math.nan
    for reduction, incoming in (("sum", torch.tensor(0.0)), ("none", torch.tensor([1.0, 0.0, 2.0]))):
        loss = scaled_loss(terms, FACTORS, reduction, KL, backend=backend).loss
        for gradient in torch.autograd.grad(loss, terms, incoming.to(loss.device)):
            assert (gradient[:, 1] == 0).all()
            assert gradient.isfinite().all()
    with torch.no_grad():
        assert not scaled_loss(terms, FACTORS, "mean", backend=backend).loss.requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_may_be_changed_in_place(backend: str) -> None:
    terms = [place(torch.randn(4, 3), device_of(backend)).requires_grad_() for _ in range(2)]
    plain = torch.autograd.grad(scaled_loss(terms, FACTORS, "mean", backend=backend).loss, terms)
    loss = scaled_loss(terms, FACTORS, "mean", backend=backend).loss
    loss /= 4
    torch.testing.assert_close([4 * g for g in torch.autograd.grad(loss, terms)], list(plain))


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
        value, scales = value_and_scales(estimator, bound, log_weights, kl_weight)
        scales, ratio = with_ratio(scales, 1e-3)
        factors = factors_of(estimator, bound, 12, kl_weight, 1e-3)
        assert factors is not None
        found = ours(backend, [log_weights], factors, "sum")
        torch.testing.assert_close(found.bound.cpu(), value)
        torch.testing.assert_close([-found.decoder.cpu(), -found.encoder.cpu()], list(scales))
        used = scales.decoder != 0  # elsewhere the ratio multiplies a gradient of 0
        found_ratio = torch.ones_like(ratio) if found.ratio is None else found.ratio.cpu()
        torch.testing.assert_close(found_ratio[used], ratio[used])


def test_other_bounds_and_estimators_are_composed() -> None:
    for bound, name in ((IWAE(), "vimco"), (VRIWAE(0.9), "dreg"), (VRIWAE(-1.0), "dreg"), (VRIWAE(1.5), "dreg")):
        assert factors_of(ESTIMATORS[name], bound, 4, 1.0, 1e-8) is None


def test_a_subclass_with_its_own_value_is_composed() -> None:
    class Shifted(IWAE):
        def __call__(self, log_weights: torch.Tensor) -> torch.Tensor:
            return super().__call__(log_weights) + 1.0

    assert Shifted().power_mean is None
    assert IWAE().power_mean is not None
