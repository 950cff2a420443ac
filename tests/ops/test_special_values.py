"""Tests of docs/numerics.md on special values, for every op on every backend, and every bound and estimator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import density_ops
import pytest
import torch
from devices import ALL, run
from torch import Tensor, nn

import iwae_fast as iw
from iwae_fast.bounds import CIWAE, CUBO, ELBO, IWAE, JVI, MIWAE, PIWAE, SUMO, TVO, VRIWAE, Bound
from iwae_fast.bounds.base import Negated
from iwae_fast.bounds.roulette import MinusSquare, TruncatedSUMO
from iwae_fast.objectives.estimators import ESTIMATORS, check, value_and_scales

FEATURES, SAMPLES = 6, 3
DTYPES = [torch.float32, torch.float64]

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton", "ignore::RuntimeWarning:numpy")

on_every_backend = pytest.mark.parametrize("backend", ALL)


def wild(dtype: torch.dtype) -> tuple[float, ...]:
    """Return numbers whose squares, exponentials and products overflow, and some that are not finite."""
    return (0.6 * torch.finfo(dtype).max, -0.6 * torch.finfo(dtype).max, math.inf, -math.inf, math.nan)


def gradients(function: Callable[..., Any], inputs: list[Tensor], backend: str, *incoming: Tensor) -> list[Tensor]:
    """Compute the gradients of all inputs for these upstream gradients, on the backend's device."""
    leaves = [t.clone().requires_grad_() for t in inputs]
    results = run(function, *leaves, backend=backend)
    return list(torch.autograd.grad(results, leaves, incoming if isinstance(results, tuple) else incoming[0]))


# --- a coefficient of exactly zero ------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """An op with one result per row of its arguments ``by_row``, and the arguments that rows share."""

    function: Callable[..., Tensor]
    by_row: tuple[str, ...]
    shared: int = 0
    overflowing: bool = False
    """True if arguments must be finite, although they may overflow: a layer's products mix their features."""


ROWS: dict[str, Rows] = {
    **{name: Rows(op.function, op.parameters) for name, op in density_ops.LOG_PROBS.items()},
    "gaussian_log_prob, scale of all": Rows(iw.gaussian_log_prob, ("value", "mean"), 1),
    "bernoulli_log_prob, logits of all": Rows(iw.bernoulli_log_prob, ("value",), 1),
    "linear_bernoulli_log_prob": Rows(iw.linear_bernoulli_log_prob, ("value", "hidden"), 2, True),
    "linear_bernoulli_log_prob, kept": Rows(
        partial(iw.linear_bernoulli_log_prob, recompute=False), ("value", "hidden"), 2, True
    ),
    "log_mean_exp": Rows(partial(iw.log_mean_exp, dim=-1), ("log_weights",)),
}


def shared(count: int, dtype: torch.dtype) -> list[Tensor]:
    """Return one parameter that all rows share, or the weight and bias of a layer."""
    if count == 2:
        return [torch.randn(FEATURES, FEATURES, dtype=dtype), torch.randn(FEATURES, dtype=dtype)]
    return [torch.rand(FEATURES, dtype=dtype) for _ in range(count)]


@on_every_backend
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_a_row_whose_coefficient_is_zero(name: str, dtype: torch.dtype, backend: str) -> None:
    """Compare with the op without that row, which holds any numbers."""
    op = ROWS[name]
    numbers = wild(dtype)[:2] if op.overflowing else wild(dtype)
    count = 2 + len(op.by_row) * len(numbers)
    inputs = [torch.rand(count, FEATURES, dtype=dtype) for _ in op.by_row]
    row = 2
    for tensor in inputs:
        for number in numbers:
            tensor[row, 1] = number
            row += 1
    others = shared(op.shared, dtype)
    incoming = torch.zeros(count, dtype=dtype)
    incoming[:2] = torch.tensor([1.0, -0.5])
    found = gradients(op.function, [*inputs, *others], backend, incoming)
    expected = gradients(op.function, [*(t[:2] for t in inputs), *others], "reference", incoming[:2])
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours[: len(exact)], exact)
        assert (ours[len(exact) :] == 0).all()


@on_every_backend
@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", density_ops.LOSSES)
def test_an_observation_whose_coefficient_is_zero(name: str, dtype: torch.dtype, at_once: bool, backend: str) -> None:
    """Give losses that are not finite a coefficient of zero, with gradients from either pass."""
    loss, names = density_ops.LOSSES[name]
    parameters = len(names) - 1  # besides the observations
    numbers = wild(dtype)
    observations = 2 + (parameters + 1) * len(numbers)
    value = torch.rand(observations, FEATURES, dtype=dtype)
    inputs = [torch.rand(SAMPLES, observations, FEATURES, dtype=dtype) for _ in range(parameters)]
    log_ratio = torch.rand(SAMPLES, observations, dtype=dtype)
    observation = 2
    for tensor in (*(t[..., 1] for t in inputs), log_ratio):
        for number in numbers:
            tensor[1, observation] = number
            observation += 1
    incoming = torch.zeros(observations, dtype=dtype)
    incoming[:2] = torch.tensor([1.0, -0.5])
    if at_once:

        def function(*parts: Tensor, backend: str) -> Tensor:
            fixed = value if parts[0].shape[1] == observations else value[:2]
            return loss(fixed, *parts, reduction="none", backend=backend)

        given = [*inputs, log_ratio]
    else:
        function = partial(loss, reduction="none")  # type: ignore[assignment]
        given = [value, *inputs, log_ratio]
    found = gradients(function, given, backend, incoming)
    few = [t[:2] if t is value else t[:, :2] for t in given]
    expected = gradients(function, few, "reference", incoming[:2])
    for ours, exact, source in zip(found, expected, given, strict=True):
        axis = 0 if source is value else 1
        torch.testing.assert_close(ours.narrow(axis, 0, 2), exact)
        assert (ours.narrow(axis, 2, observations - 2) == 0).all()


@on_every_backend
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_whose_coefficient_is_zero(reduction: str, backend: str) -> None:
    layer = [torch.randn(FEATURES, FEATURES), torch.randn(FEATURES)]
    value = torch.rand(2, FEATURES)
    value[0, 0] = math.nan
    hidden, log_ratio = torch.rand(SAMPLES, 2, FEATURES), torch.rand(SAMPLES, 2)
    calls: list[tuple[Callable[..., Tensor], list[Tensor]]] = [
        (op.function, [*torch.rand(len(op.parameters) - 1, SAMPLES, 2, FEATURES), log_ratio])
        for op in density_ops.LOSSES.values()
    ]
    for loss, given in (*calls, (iw.linear_bernoulli_iwae_loss, [hidden, *layer, log_ratio])):
        function = partial(loss, value, reduction=reduction)
        for gradient in gradients(function, given, backend, torch.tensor(0.0)):
            assert (gradient == 0).all()


@on_every_backend
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("path_only", [False, True])
@pytest.mark.parametrize("arriving", ["z and ratio", "z", "ratio"])
def test_samples_whose_coefficients_are_zero(arriving: str, path_only: bool, dtype: torch.dtype, backend: str) -> None:
    """Test observations whose draws are not finite, and observations of which only some draws have a coefficient."""
    numbers = wild(dtype)
    observations = 2 + 2 * len(numbers)
    mean, log_std = (torch.rand(observations, FEATURES, dtype=dtype) for _ in range(2))
    for index, number in enumerate(numbers):
        mean[2 + index, 1] = log_std[2 + len(numbers) + index, 1] = number
    grad_z = torch.randn(SAMPLES, observations, FEATURES, dtype=dtype)
    grad_ratio = torch.randn(SAMPLES, observations, dtype=dtype)
    grad_z[:, 2:], grad_ratio[:, 2:] = 0.0, 0.0
    grad_z, grad_ratio = grad_z * ("z" in arriving.split()), grad_ratio * ("ratio" in arriving)

    def function(mean: Tensor, log_std: Tensor, backend: str) -> tuple[Tensor, Tensor]:
        return iw.sample_gaussian(mean, log_std, SAMPLES, 3, path_only, backend=backend)

    found = gradients(function, [mean, log_std], backend, grad_z, grad_ratio)
    expected = gradients(function, [mean[:2], log_std[:2]], "reference", grad_z[:, :2], grad_ratio[:, :2])
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours[:2], exact, rtol=1e-4, atol=1e-4)
        assert (ours[2:] == 0).all()


@on_every_backend
@pytest.mark.parametrize("path_only", [False, True])
def test_draws_that_overflow_weigh_nothing(path_only: bool, backend: str) -> None:
    """Check that the loss ignores draws that overflow: all of one observation's, and some of another's, whose gradient
    is that of the remaining draws."""
    k = 40
    mean, log_std = torch.zeros(3, 1), torch.tensor([[0.3], [100.0], [44.0]])

    def loss(mean: Tensor, log_std: Tensor, backend: str) -> Tensor:
        _, log_ratio = iw.sample_gaussian(mean, log_std, k, 3, path_only, backend=backend)
        return iw.iwae_loss(log_ratio, reduction="none", backend=backend)

    one = torch.ones(3)
    grad_mean, grad_log_std = gradients(loss, [mean, log_std], backend, one)
    assert (grad_mean[1] == 0).all()
    assert (grad_log_std[1] == 0).all()
    exact = gradients(loss, [mean.double(), log_std.double()], "reference", one.double())
    for ours, expected in zip((grad_mean, grad_log_std), exact, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours[0].double(), expected[0], rtol=1e-4, atol=1e-4)
    # The smallest draw takes all: d log w / d log s = 1 - z^2 of it, and z^2 is 10^35 or more.
    assert (grad_log_std[2] > 1e30) | (grad_log_std[2] == 0)


@on_every_backend
def test_second_derivatives_at_a_coefficient_of_zero(backend: str) -> None:
    """Check the derivative with respect to the coefficient: linear, and zero where the other factor is not finite."""
    if backend != "reference":
        pytest.skip("of native ops there are none")
    value = torch.rand(3, FEATURES, dtype=torch.float64, requires_grad=True)
    coefficient = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    log_prob = iw.standard_gaussian_log_prob(value, backend=backend)
    (first,) = torch.autograd.grad(log_prob, value, coefficient, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), coefficient)
    torch.testing.assert_close(second, -value.detach().sum(-1))


def test_forward_mode_of_parameters_that_are_broadcast() -> None:
    """Test forward mode, by the reference, with expanded parameters, whose tangents must not share memory."""
    value, mean, log_std = torch.rand(2, 4), torch.rand(3, 2, 4), torch.rand(4)
    arguments = tuple(t.double() for t in (value, mean, log_std))
    _, tangent = torch.func.jvp(iw.gaussian_log_prob, arguments, arguments)
    leaves = [t.clone().requires_grad_() for t in arguments]
    exact = torch.autograd.grad(iw.gaussian_log_prob(*leaves).sum(), leaves)
    torch.testing.assert_close(tangent.sum(), sum((g * t).sum() for g, t in zip(exact, arguments, strict=True)))


# --- log-weights of -inf ----------------------------------------------------------------------------------------------


@on_every_backend
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
def test_columns_of_weights_of_zero(dtype: torch.dtype, backend: str) -> None:
    """Test value, gradient, weights and effective sample size, beside columns with single zeros and NaN."""
    log_weights = torch.randn(5, 4).to(dtype)
    log_weights[:, 0] = -math.inf
    log_weights[2, 1] = -math.inf
    log_weights[3, 2] = math.nan
    (gradient,) = gradients(
        iw.log_mean_exp, [log_weights], backend, torch.ones(4).to(torch.promote_types(dtype, torch.float32))
    )
    value = run(iw.log_mean_exp, log_weights, backend=backend)
    assert value[0] == -math.inf
    assert value.isnan().tolist() == [False, False, True, False]
    assert (gradient[:, 0] == 0).all()
    assert gradient[2, 1] == 0
    assert gradient[:, 2].isnan().all()
    kept = log_weights[[0, 1, 3, 4], 1].double()
    torch.testing.assert_close(value[1].double(), torch.logsumexp(kept, 0) - math.log(5.0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient[[0, 1, 3, 4], 1].double(), torch.softmax(kept, 0), rtol=2e-3, atol=1e-4)
    assert (iw.normalized_weights(log_weights)[:, 0] == 0).all()
    assert iw.effective_sample_size(log_weights)[0] == 0


def bounds(k: int) -> Iterator[Bound]:
    """Return every bound that takes k samples, and the bounds that networks ascend in their place."""
    yield from (ELBO(), IWAE(), *(VRIWAE(alpha) for alpha in (0.0, 0.3, 0.999, 1.0, 1.001, 2.0, -1.5)), CUBO(2))
    yield from (CIWAE(0.0), CIWAE(0.3), CIWAE(1.0), TVO((0.0,)), TVO((0.0, 0.1, 0.6)), MIWAE(k), PIWAE(k))
    yield from (bound for order in (1, 2) if order < k for bound in (JVI(order),))
    if k % 2 == 0:
        yield from (MIWAE(2), PIWAE(2))
    roulette = TruncatedSUMO(SUMO(3), k - 1)
    yield from (roulette, MinusSquare(roulette), Negated(VRIWAE(-1.0)))


def patterns(k: int) -> Iterator[list[int]]:
    """Yield the indices of the samples of zero weight."""
    yield from ([0], [k - 1], list(range(1, k)), list(range(k - 1)), list(range(k // 2)), list(range(k)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 6])
def test_bounds_of_weights_of_zero(k: int, dtype: torch.dtype) -> None:
    """Compare autograd with coefficients, both zero at zero weights, alone and beside another column."""
    for bound in bounds(k):
        for zeros in patterns(k):
            log_weights = torch.randn(k, 2, dtype=dtype) - 5.0
            log_weights[zeros, 1] = -math.inf
            leaf = log_weights.clone().requires_grad_()
            value = bound(leaf)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
            coefficients = bound.coefficients(log_weights)
            case = f"{bound} of {zeros} of {k}"
            torch.testing.assert_close(value.detach(), coefficients.value, msg=case)
            torch.testing.assert_close(gradient, coefficients.g, rtol=1e-4, atol=1e-5, msg=case)
            at_zero = log_weights == -math.inf
            for part in (gradient, coefficients.g, coefficients.D):
                assert part.isfinite().all(), case
                assert (part[at_zero] == 0).all(), case
            if len(zeros) == k:
                assert value[1] == (math.inf if isinstance(bound, Negated) else -math.inf), case
            torch.testing.assert_close(value[0], bound(log_weights[:, :1])[0], msg=case)


def limit(bound: Bound, log_weights: Tensor) -> Tensor:
    """Return the limit of the bound as weights go to zero."""
    return bound(log_weights.masked_fill(log_weights == -math.inf, -1e6))


@pytest.mark.parametrize("k", [1, 2, 6])
def test_values_are_limits(k: int) -> None:
    """Check that the value at zero weights is the limit, which may be infinite."""
    for bound in bounds(k):
        for zeros in patterns(k):
            log_weights = torch.randn(k, 1, dtype=torch.float64) - 5.0
            log_weights[zeros] = -math.inf
            value, near = bound(log_weights)[0], limit(bound, log_weights)[0]
            if value.isinf():
                assert value * near > 0, f"{bound} of {zeros} of {k}: {value} where weights of e^-1,000,000 give {near}"
                assert near.abs() > 500.0, (
                    f"{bound} of {zeros} of {k}: {value} where weights of e^-1,000,000 give {near}"
                )
            else:
                torch.testing.assert_close(value, near, msg=f"{bound} of {zeros} of {k}")


@pytest.mark.parametrize("name", ESTIMATORS)
def test_scales_of_weights_of_zero(name: str) -> None:
    """Check that scales are never NaN, and zero for an observation whose weights are all zero."""
    k = 6
    for bound in bounds(k):
        try:
            estimator = check(name, bound, k, False)
        except ValueError:
            continue
        for zeros in patterns(k):
            log_weights = torch.randn(k, 2, dtype=torch.float64)
            log_weights[zeros, 1] = -math.inf
            value, scales = value_and_scales(estimator, bound, log_weights, 1.0)
            for part in scales:
                assert part.isfinite().all(), f"{bound} of {zeros}"
                if len(zeros) == k:
                    assert (part[:, 1] == 0).all(), f"{bound} of {zeros}"
                if name != "vimco":  # which pushes q away from samples that weigh nothing
                    assert (part[zeros, 1] == 0).all(), f"{bound} of {zeros}"
            assert value[0].isfinite()


class Bounded(nn.Module):
    """An encoder and decoder with finite outputs for inputs of any size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mean, self.log_std = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs)

    def forward(self, value: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(value)
        return self.mean(hidden), self.log_std(hidden)


WAYS: dict[str, dict[str, Any]] = {"whole": {}, "chunks": {"chunk_size": 2}, "budget": {"budget": 2}}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("estimator", ["reparameterized", "stl", "dreg", "aisle-chi2", "rws", "rws-dreg", "vimco"])
def test_an_observation_of_no_likelihood_moves_nothing(estimator: str, way: str) -> None:
    """Compare with the gradient of the other observations, where every density of one overflows."""
    torch.manual_seed(0)
    model = iw.models.VAE(Bounded(4, 2), Bounded(2, 4), "gaussian").double()
    x = torch.randn(3, 4, dtype=torch.float64)
    x[2, 1] = 1e200
    for bound in bounds(4):
        try:
            check(estimator, bound, 4, False)
        except ValueError:
            continue
        if isinstance(bound, TruncatedSUMO | MinusSquare | Negated):
            continue
        objective = iw.Objective(bound, estimator, num_samples=4, reduction="sum", **WAYS[way])
        found, expected = (
            torch.autograd.grad(objective(model, each, seed=1), list(model.parameters())) for each in (x, x[:2])
        )
        torch.testing.assert_close(found, expected, msg=repr(bound))
        objective(model, x, seed=1)
        assert objective.last is not None
        assert objective.last.value[2] == -math.inf, repr(bound)
        assert objective.last.ess[2] == 0
