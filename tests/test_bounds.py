from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import iwae_fast as iw

BOUNDS = [iw.bounds.ELBO(), iw.bounds.IWAE()]
identify = pytest.mark.parametrize("bound", BOUNDS, ids=repr)


@identify
def test_coefficients_are_the_derivatives(bound: iw.bounds.Bound) -> None:
    log_weights = (2 * torch.randn(6, 4, dtype=torch.float64)).requires_grad_()
    value, g, d = bound.coefficients(log_weights)
    torch.testing.assert_close(value, bound(log_weights).detach())
    torch.testing.assert_close(g, torch.autograd.grad(bound(log_weights).sum(), log_weights)[0])
    hessian = torch.autograd.functional.hessian(lambda w: reference_value(bound, w), log_weights[:, 0].detach())
    torch.testing.assert_close(d[:, 0], hessian.diagonal())


def reference_value(bound: iw.bounds.Bound, log_weights: torch.Tensor) -> torch.Tensor:
    """The bound in operations that have second derivatives."""
    if isinstance(bound, iw.bounds.IWAE):
        return iw.log_mean_exp(log_weights, backend="reference")
    return log_weights.mean(0)


@identify
@given(seed=st.integers(0, 2**31), shift=st.floats(-1e3, 1e3))
def test_shift_and_permutation(bound: iw.bounds.Bound, seed: int, shift: float) -> None:
    log_weights = 3 * torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(bound(log_weights + shift), bound(log_weights) + shift)
    torch.testing.assert_close(bound(log_weights.flip(0)), bound(log_weights))


@identify
def test_equal_weights_and_one_sample(bound: iw.bounds.Bound) -> None:
    log_weights = torch.randn(1, 5, dtype=torch.float64)
    torch.testing.assert_close(bound(log_weights), log_weights[0])
    torch.testing.assert_close(bound(log_weights.expand(9, 5)), log_weights[0])


def test_iwae_is_above_elbo() -> None:
    log_weights = torch.randn(7, 100)
    assert (iw.bounds.IWAE()(log_weights) >= iw.bounds.ELBO()(log_weights)).all()


@identify
def test_half_precision_is_widened(bound: iw.bounds.Bound) -> None:
    assert bound(torch.zeros(3, 2, dtype=torch.float16)).dtype == torch.float32


@identify
def test_bad_input(bound: iw.bounds.Bound) -> None:
    with pytest.raises(ValueError, match="k = 0"):
        bound(torch.ones(0, 3))
    with pytest.raises(TypeError, match="int64"):
        bound(torch.ones(2, 3, dtype=torch.int64))
