"""Tests of every bound: its value, coefficients as derivatives, invariances, and weights of any spread."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import iwae_fast as iw
from iwae_fast import reference
from iwae_fast.bounds import CIWAE, CUBO, ELBO, IWAE, JVI, MIWAE, PIWAE, TVO, VRIWAE, Bound

Plain = Callable[[Tensor], Tensor]


def iwae(log_weights: Tensor) -> Tensor:
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def renyi(alpha: float) -> Plain:
    return lambda w: iwae((1 - alpha) * w) / (1 - alpha)


def jackknife(order: int) -> Plain:
    """Compute the generalized jackknife by its definition, a sum over subsets (Nowozin 2018)."""

    def value(log_weights: Tensor) -> Tensor:
        k, total = len(log_weights), torch.zeros_like(log_weights[0])
        for j in range(order + 1):
            c = (-1) ** j * (k - j) ** order / (math.factorial(order - j) * math.factorial(j))
            subsets = [iwae(log_weights[list(kept)]) for kept in combinations(range(k), k - j)]
            total = total + c * torch.stack(subsets).mean(0)
        return total

    return value


def tvo(partition: tuple[float, ...]) -> Plain:
    def value(log_weights: Tensor) -> Tensor:
        ends = (*partition[1:], 1.0)
        return sum(
            (end - beta) * (torch.softmax(beta * log_weights, 0) * log_weights).sum(0)
            for beta, end in zip(partition, ends, strict=True)
        )

    return value


PLAIN: dict[Bound, Plain] = {
    ELBO(): lambda w: w.mean(0),
    IWAE(): iwae,
    VRIWAE(0.3): renyi(0.3),
    VRIWAE(-1.5): renyi(-1.5),
    VRIWAE(2.0): renyi(2.0),
    VRIWAE(0.999): renyi(0.999),
    CUBO(2): renyi(-1.0),
    MIWAE(2): lambda w: (iwae(w[:3]) + iwae(w[3:])) / 2,
    PIWAE(2): iwae,
    CIWAE(0.3): lambda w: 0.3 * w.mean(0) + 0.7 * iwae(w),
    TVO((0.0, 0.1, 0.6)): tvo((0.0, 0.1, 0.6)),
    JVI(1): jackknife(1),
    JVI(2): jackknife(2),
}
"""Each bound beside its plain definition; k = 6 in the tests that use it."""

identify = pytest.mark.parametrize("bound", PLAIN, ids=repr)


@identify
@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0])
def test_value_gradient_and_coefficients_are_those_of_the_definition(bound: Bound, scale: float) -> None:
    log_weights = (scale * torch.randn(6, 4, dtype=torch.float64) - 90.0).requires_grad_()
    expected = PLAIN[bound](log_weights)
    (exact_g,) = torch.autograd.grad(expected.sum(), log_weights)
    hessian = torch.autograd.functional.hessian(lambda w: PLAIN[bound](w), log_weights[:, 0].detach())

    value = bound(log_weights)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), log_weights)[0], exact_g, rtol=1e-6, atol=1e-8)
    coefficients = bound.coefficients(log_weights)
    assert not any(t.requires_grad for t in coefficients)
    torch.testing.assert_close(coefficients.value, expected.detach())
    torch.testing.assert_close(coefficients.g, exact_g, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(coefficients.D[:, 0], hessian.diagonal(), rtol=1e-5, atol=1e-7)


@identify
@given(seed=st.integers(0, 2**31), shift=st.floats(-1e3, 1e3))
def test_shift_and_permutation(bound: Bound, seed: int, shift: float) -> None:
    log_weights = 3 * torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(bound(log_weights + shift), bound(log_weights) + shift)
    if not isinstance(bound, MIWAE):  # whose groups go by order
        torch.testing.assert_close(bound(log_weights.flip(0)[[1, 0, 2, 3, 5, 4]]), bound(log_weights))
    torch.testing.assert_close(bound.coefficients(log_weights).g.sum(0), torch.ones(2, dtype=torch.float64))


@identify
def test_equal_weights(bound: Bound) -> None:
    log_weights = torch.randn(1, 5, dtype=torch.float64)
    torch.testing.assert_close(bound(log_weights.expand(6, 5)), log_weights[0])


@identify
def test_one_sample_is_the_elbo(bound: Bound) -> None:
    log_weights = torch.randn(1, 5, dtype=torch.float64)
    if isinstance(bound, JVI):
        with pytest.raises(ValueError, match=rf"JVI\({bound.order}\) needs k > {bound.order} samples, got k = 1"):
            bound(log_weights)
    elif isinstance(bound, MIWAE | PIWAE):
        with pytest.raises(ValueError, match="needs k divisible by 2, got k = 1"):
            bound(log_weights)
    else:
        torch.testing.assert_close(bound(log_weights), log_weights[0])


@identify
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [30.0, 100.0, 400.0])
def test_one_weight_that_takes_everything(bound: Bound, dtype: torch.dtype, gap: float) -> None:
    """Check to first order values and coefficients where the other weights are tiny or 0."""
    log_weights = torch.tensor([-gap, 0.0, -gap - 1, -2 * gap, -gap, -gap - 2], dtype=dtype)[:, None].requires_grad_()
    value = bound(log_weights)
    (gradient,) = torch.autograd.grad(value.sum(), log_weights)
    coefficients = bound.coefficients(log_weights)
    for tensor in (value, gradient, *coefficients):
        assert tensor.isfinite().all()
    torch.testing.assert_close(coefficients.g, gradient, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(value, coefficients.value)
    if not isinstance(bound, JVI) or gap < 100:
        return
    # With the largest left out, what is left is as the bound of the others; float64 of the definition agrees.
    expected = PLAIN[bound](log_weights.detach().double())
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)


@identify
def test_weights_of_zero(bound: Bound) -> None:
    log_weights = torch.randn(6, 1, dtype=torch.float64)
    log_weights[2] = -math.inf
    value = bound(log_weights)
    assert not value.isnan().any()


@pytest.mark.parametrize("bound", [IWAE(), VRIWAE(0.3), MIWAE(2), PIWAE(2), JVI(1), JVI(2)], ids=repr)
def test_all_weights_of_zero(bound: Bound) -> None:
    log_weights = torch.randn(6, 2, dtype=torch.float64)
    log_weights[:, 1] = -math.inf
    log_weights.requires_grad_()
    value = bound(log_weights)
    assert value[1] == -math.inf
    (gradient,) = torch.autograd.grad(value.sum(), log_weights)
    g = bound.coefficients(log_weights).g
    assert (gradient[:, 1] == 0).all()
    assert (g[:, 1] == 0).all()
    torch.testing.assert_close(g[:, 0], gradient[:, 0])


@identify
def test_half_precision_is_widened(bound: Bound) -> None:
    assert bound(torch.zeros(6, 2, dtype=torch.float16)).dtype == torch.float32
    assert {t.dtype for t in bound.coefficients(torch.zeros(6, 2, dtype=torch.float16))} == {torch.float32}


@identify
def test_bad_input(bound: Bound) -> None:
    with pytest.raises(ValueError, match="k = 0"):
        bound(torch.ones(0, 3))
    with pytest.raises(TypeError, match="int64"):
        bound(torch.ones(2, 3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VRIWAE(math.inf), "alpha must be a finite number, got inf"),
        (lambda: VRIWAE("1"), "alpha must be a finite number, got '1'"),
        (lambda: CUBO(1.0), "n must be a number above 1, got 1.0"),
        (lambda: CIWAE(1.5), "beta must be between 0 and 1, got 1.5"),
        (lambda: MIWAE(0), "groups must be at least 1, got 0"),
        (lambda: JVI(0), "order must be at least 1, got 0"),
        (lambda: TVO((0.1, 0.2)), "partition must rise from 0"),
        (lambda: TVO((0.0, 0.5, 0.5)), "partition must rise from 0"),
        (lambda: JVI(3), "order must be 1 or 2, got 3"),
    ],
)
def test_bad_settings(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_repr_makes_the_bound_again() -> None:
    for bound in PLAIN:
        assert repr(eval(repr(bound))) == repr(bound)


def test_order_of_the_bounds() -> None:
    log_weights = 3.0 * torch.randn(6, 100)
    values = [bound(log_weights) for bound in (ELBO(), VRIWAE(0.7), VRIWAE(0.3), IWAE(), VRIWAE(-0.5), CUBO(2))]
    for lower, upper in pairwise(values):
        assert (lower <= upper + 1e-5).all()
    assert (ELBO()(log_weights) <= MIWAE(3)(log_weights)).all()
    assert (MIWAE(3)(log_weights) <= MIWAE(1)(log_weights) + 1e-5).all()
    torch.testing.assert_close(MIWAE(1)(log_weights), IWAE()(log_weights))
    torch.testing.assert_close(MIWAE(6)(log_weights), ELBO()(log_weights))
    torch.testing.assert_close(TVO((0.0,))(log_weights), ELBO()(log_weights))
    torch.testing.assert_close(VRIWAE(0)(log_weights), IWAE()(log_weights))


@pytest.mark.parametrize("distance", [0.0, 1e-12, 1e-7, 1e-6, 1e-4, 1e-2, 0.5, 3.0])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_renyi_is_continuous_through_alpha_one(distance: float, sign: float, dtype: torch.dtype) -> None:
    """Compare with an expansion in cumulants near alpha = 1, and with the definition elsewhere, in float64."""
    log_weights = 2.0 * torch.randn(50, 20, dtype=torch.float64)
    alpha = 1.0 + sign * distance
    power = 1.0 - alpha
    d = log_weights - log_weights.mean(0)
    series = log_weights.mean(0) + power / 2 * d.square().mean(0) + power**2 / 6 * d.pow(3).mean(0)
    expected = renyi(alpha)(log_weights) if distance > 1e-3 else series
    leaf = log_weights.to(dtype).requires_grad_()
    value = VRIWAE(alpha)(leaf)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=2e-6)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    v = torch.softmax(power * log_weights, 0)
    torch.testing.assert_close(gradient.double(), v, rtol=1e-3, atol=1e-5)


def test_jackknife_removes_bias() -> None:
    """Check that the bias falls as 1/k for IWAE and as 1/k^2 for JVI(1), for log-normal weights with log p(x) = 0."""
    torch.manual_seed(0)
    log_weights = 0.7 * torch.randn(16, 400_000, dtype=torch.float64) - 0.245
    bias = [abs(float(bound(log_weights).mean())) for bound in (IWAE(), JVI(1), JVI(2))]
    assert bias[1] < bias[0] / 5
    assert bias[2] < bias[0] / 5


def test_who_may_train_an_encoder() -> None:
    for bound in (ELBO(), IWAE(), VRIWAE(0.5), VRIWAE(2.0), MIWAE(2), CIWAE(0.5), TVO()):
        assert bound.for_encoder is bound
        assert bound.for_decoder is bound
    for bound in (VRIWAE(-0.1), CUBO(2)):
        assert repr(bound.for_encoder) == f"Negated({bound})"
        assert repr(bound.for_decoder) == "IWAE()"
    assert repr(JVI(1).for_encoder) == "IWAE()"
    assert repr(PIWAE(3).for_encoder) == "MIWAE(3)"


def test_the_reference_definition_of_iwae_is_the_kernels() -> None:
    log_weights = torch.randn(6, 4, dtype=torch.float64)
    torch.testing.assert_close(reference.log_mean_exp(log_weights), iwae(log_weights))
    torch.testing.assert_close(iw.log_mean_exp(log_weights), iwae(log_weights))
