"""Tests of every likelihood over its whole range of parameters: values, means and gradients, in high-precision
arithmetic.

Errors are counted in roundings of the dtype, relative to 1 + |exact|. Negative binomials are computed in float64 and
rounded to the dtype.
"""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import exact_densities as exact
import pytest
import torch
from torch import Tensor

from iwae_fast import backends
from iwae_fast.likelihoods import LIKELIHOODS, Categorical, DiscretizedLogistic, Likelihood

ROUNDINGS = 8
INF = math.inf
DTYPES = (torch.float32, torch.float64)
Row = tuple[float, ...]

SIZES = (1e-9, 1e-3, 0.3, 0.4999, 0.5001, 1.0, 17.3, 88.5, 100.0, 300.0, 1e4)
LOGITS = (0.0, *SIZES, *(-size for size in SIZES))
OFFSETS = (0.0, 1e6, -1e6, 100.0)
CLASSES = [(0.0, 1.5, -20.0, 3.0), (0.0, 1e4, -1e4, 100.0)]


def count_rows() -> list[Row]:
    """Return counts near their mean and far from it, with theta from e^-800 to e^800."""
    draw = random.Random(0)
    rows = []
    for count, log_theta in itertools.product(
        (0.0, 1.0, 5.0, 1000.0, 1e8), (-800.0, -700.0, -30.0, -3.0, 0.5, 7.0, 12.0, 18.0, 24.0, 34.0, 38.0, 60.0)
    ):
        near = math.log(max(count, 1.0)) + draw.gauss(0.0, 2.0) / math.sqrt(max(count, 1.0))
        rows += [(count, near, log_theta), (count, draw.uniform(-30.0, 18.0), log_theta)]
    return [*rows, (5.0, math.log(10.0), 800.0), (0.0, math.log(10.0), 800.0), (7.0, -200.0, 300.0)]


ROWS: dict[str, list[Row]] = {
    "bernoulli": list(itertools.product((0.0, 0.25, 0.999, 1.0), LOGITS)),
    "continuous-bernoulli": list(itertools.product((0.0, 0.25, 0.999, 1.0), LOGITS)),
    "gaussian": [
        (x, mean, log_std)
        for x, mean in ((0.0, 0.0), (0.3, 0.3), (1e6, 1e6 + 0.5), (1.0, -2.0), (1e-3, 2e-3), (0.0, 1e-30))
        for size in (1.0, 10.0, 40.0, 60.5, 80.0, 90.0, 100.0, 140.0, 300.0, 710.0, 800.0, 1000.0)
        for log_std in (-size, 0.0, 3.0, min(size, 800.0))
    ],
    "categorical": [
        (float(index), *(logit + offset for logit in logits))
        for index, logits, offset in itertools.product(range(4), CLASSES, OFFSETS)
    ],
    "negative-binomial": count_rows(),
    "zero-inflated-negative-binomial": [
        (*row, logit) for row, logit in zip(count_rows(), itertools.cycle((-300.0, -5.0, 0.0, 2.0, 40.0)), strict=False)
    ],
    "poisson": [
        (count, log_rate)
        for count in (0.0, 1.0, 5.0, 1000.0, 1e8)
        for log_rate in (-700.0, -30.0, 0.5, 7.0, math.log(max(count, 1.0)) + 1e-3, 18.0)
    ],
    "zero-inflated-poisson": [
        (count, log_rate, logit)
        for count in (0.0, 1.0, 1000.0)
        for log_rate in (-30.0, 0.5, 7.0)
        for logit in (-300.0, -5.0, 0.0, 40.0)
    ],
    "student-t": [
        (x, mean, log_scale, log_df)
        for x, mean in ((0.0, 0.0), (0.3, 0.3), (1.0, -2.0), (1e6, 0.0), (0.0, 1e-30))
        for log_scale in (-300.0, -20.0, 0.0, 3.0, 300.0)
        for log_df in (-100.0, -5.0, 0.0, 2.0, 15.0, 36.0, 70.0)
    ],
    "beta": [
        (x, logit, log_concentration)
        for x in (1e-6, 0.25, 0.5, 0.999)
        for logit in (-300.0, -5.0, 0.0, 2.0, 40.0)
        for log_concentration in (-70.0, -5.0, 0.0, 3.0, 12.0, 30.0)
    ],
    "discretized-logistic": [
        (level, mean, log_scale)
        for level in (0.0, 1.0, 2.0, 3.0)
        for mean in (-1e3, 0.2, 1.0 / 3.0, 30.0)
        for log_scale in (-30.0, -3.0, 0.0, 10.0, 200.0)
    ],
}
DENSITIES = {
    "bernoulli": exact.bernoulli,
    "continuous-bernoulli": exact.continuous_bernoulli,
    "gaussian": exact.gaussian,
    "categorical": exact.categorical,
    "negative-binomial": exact.negative_binomial,
    "zero-inflated-negative-binomial": exact.zero_inflated,
    "poisson": exact.poisson,
    "zero-inflated-poisson": exact.zero_inflated_poisson,
    "student-t": exact.student_t,
    "beta": exact.beta,
    "discretized-logistic": exact.discretized_logistic,
}


def build(name: str) -> Likelihood:
    with_four = {"categorical": Categorical, "discretized-logistic": DiscretizedLogistic}
    return with_four[name](4) if name in with_four else LIKELIHOODS[name]()


def output_of(name: str, parameters: Tensor) -> tuple[Any, Tensor]:
    """Return a decoder's output with one feature per row, and its leaf."""
    leaf = parameters.clone().requires_grad_()
    if name == "categorical":
        return leaf, leaf
    parts = tuple(leaf[:, [column]] for column in range(leaf.shape[1]))
    return (parts if len(parts) > 1 else parts[0]), leaf


def assert_exact(found: Tensor, expected: Tensor, rounding: float, more: Tensor | float = 0.0) -> None:
    limit = torch.finfo(found.dtype).max
    expected = torch.where(expected.abs() > limit, expected.sign() * INF, expected)
    allowed = ROUNDINGS * rounding * (1.0 + expected.abs()) + more
    wrong = ~((found.double() == expected) | ((found.double() - expected).abs() <= allowed))
    at = wrong.nonzero().tolist()
    assert not at, [(index, found[tuple(index)].item(), expected[tuple(index)].item()) for index in at]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_log_prob_and_its_gradient(name: str, dtype: torch.dtype) -> None:
    rows = torch.tensor(ROWS[name], dtype=dtype)
    output, leaf = output_of(name, rows[:, 1:])
    values = build(name).log_prob(rows[:, :1], output, 1)[0]
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    found = torch.cat([values.detach()[:, None], gradient], 1)
    expected = torch.tensor(
        [exact.value_and_gradient(DENSITIES[name], tuple(row), 1) for row in rows.tolist()], dtype=torch.float64
    )
    rounding, more = torch.finfo(dtype).eps / 2, torch.zeros(len(rows), 1, dtype=torch.float64)
    double = rows.double()
    if name in ("student-t", "beta"):
        # Scales, df and concentrations are exponentials, whose arguments have a rounding of their size.
        more = 2.0**-48 * (1.0 + double[:, 1:].abs().sum(1, keepdim=True)) * (1.0 + expected.abs())
    elif name.endswith(("binomial", "poisson")):
        # A mean e^s has a rounding of s, and of its own, which the count's excess over it amplifies.
        mean = torch.exp(double[:, [1]])
        more = 2.0**-50 * (1.0 + double[:, [1]].abs()) * (expected[:, [1]].abs() + torch.minimum(mean, double[:, [0]]))
        more = more + 1e-14 * expected.abs() + 1e-14
    elif "bernoulli" in name and backends.choose(None, (values,)) == backends.REFERENCE:
        more = ROUNDINGS * rounding * (double[:, :1] * double[:, 1:]).abs()  # kernels round x l - softplus(l) once
    assert_exact(found, expected, rounding, more)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "mean", "rows"),
    [
        ("continuous-bernoulli", exact.continuous_bernoulli_mean, [(logit,) for logit in LOGITS]),
        (
            "zero-inflated-negative-binomial",
            exact.zero_inflated_mean,
            list(itertools.product((-80.0, 0.0, 10.0), (0.0,), (-300.0, -100.0, 0.0, 5.0, 100.0))),
        ),
        ("categorical", exact.categorical_mean, [row[1:] for row in ROWS["categorical"]]),
    ],
)
def test_mean_and_its_gradient(name: str, mean: exact.Density, rows: list[Row], dtype: torch.dtype) -> None:
    parameters = torch.tensor(rows, dtype=dtype)
    output, leaf = output_of(name, parameters)
    values = build(name).mean(output)
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    found = torch.cat([values.detach().reshape(-1, 1), gradient], 1)
    expected = torch.tensor(
        [exact.value_and_gradient(mean, tuple(row)) for row in parameters.tolist()], dtype=torch.float64
    )
    # The exponent of a product has a rounding of its size.
    product = 2.0 * torch.finfo(dtype).eps * parameters.double().abs().sum(1, keepdim=True) * expected.abs()
    more = {"zero-inflated-negative-binomial": product, "continuous-bernoulli": 2e-14}.get(name, 0.0)
    assert_exact(found, expected, torch.finfo(dtype).eps / 2, more)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "row", "value", "gradient"),
    [
        # An empty cell: a mean of zero under a count of zero, at any theta.
        ("negative-binomial", (0.0, -INF, 0.3), 0.0, (0.0, 0.0)),
        ("negative-binomial", (0.0, -INF, -INF), 0.0, (0.0, 0.0)),
        ("negative-binomial", (0.0, -INF, INF), 0.0, (0.0, 0.0)),
        ("negative-binomial", (3.0, -INF, 0.0), -INF, (3.0, -7 / 6)),
        # Theta of zero: beside it a mean of zero is the limit that is taken first.
        ("negative-binomial", (3.0, 0.0, -INF), -INF, (0.0, 1.0)),
        ("negative-binomial", (3.0, -50.0, -INF), -INF, (0.0, 1.0)),
        ("negative-binomial", (3.0, 0.0, -1e30), -1e30, (0.0, 1.0)),
        ("negative-binomial", (1.0, -INF, -INF), -INF, (1.0, 0.0)),
        ("negative-binomial", (3.0, -INF, -INF), -INF, (3.0, -2.0)),
        ("negative-binomial", (3.0, -INF, INF), -INF, (3.0, 0.0)),
        ("zero-inflated-negative-binomial", (3.0, 0.0, -INF, 0.0), -INF, (0.0, 1.0, -0.5)),
        ("zero-inflated-negative-binomial", (0.0, -INF, 0.3, 1.0), 0.0, (0.0, 0.0, 0.0)),
        ("zero-inflated-negative-binomial", (3.0, -INF, 0.0, 0.0), -INF, (3.0, -7 / 6, -0.5)),
        # Nothing and everything missed.
        ("zero-inflated-negative-binomial", (0.0, 0.0, 0.0, -INF), -math.log(2.0), (-0.5, 0.5 - math.log(2.0), 0.0)),
        ("zero-inflated-negative-binomial", (0.0, 0.0, 0.0, INF), 0.0, (0.0, 0.0, 0.0)),
        ("zero-inflated-negative-binomial", (0.0, 5.0, 0.0, 1e4), 0.0, (0.0, 0.0, 0.0)),
        # Poisson's distribution, and its opposite.
        ("negative-binomial", (1.0, 0.0, INF), -1.0, (0.0, 0.0)),
        ("negative-binomial", (0.0, 3.0, -INF), 0.0, (0.0, 0.0)),
        # Means and thetas that overflow.
        ("negative-binomial", (0.0, 800.0, 800.0), -INF, None),
        ("negative-binomial", (5.0, 800.0, 800.0), -INF, None),
        # Classes that are impossible.
        ("categorical", (0.0, 0.0, -INF, 0.0, -INF), -math.log(2.0), (0.5, 0.0, -0.5, 0.0)),
        ("categorical", (1.0, 0.0, -INF, 0.0, -INF), -INF, (-0.5, 1.0, -0.5, 0.0)),
        ("categorical", (2.0, -INF, -INF, 1e6, -INF), 0.0, (0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_zero_times_log_zero(name: str, row: Row, value: float, gradient: Row | None, dtype: torch.dtype) -> None:
    """Test it beside an ordinary observation, whose value and gradient do not change."""
    ordinary = (0.0,) * len(row)
    rows = torch.tensor([row, ordinary], dtype=dtype)
    output, leaf = output_of(name, rows[:, 1:])
    values = build(name).log_prob(rows[:, :1], output, 1)[0]
    (found,) = torch.autograd.grad(values.sum(), leaf)
    alone, its_leaf = output_of(name, rows[1:, 1:])
    expected = build(name).log_prob(rows[1:, :1], alone, 1)[0]
    assert torch.equal(values[1:], expected)
    assert torch.equal(found[1:], torch.autograd.grad(expected.sum(), its_leaf)[0])
    tolerance = 4.0 * torch.finfo(dtype).eps
    torch.testing.assert_close(values[0].item(), value, rtol=tolerance, atol=tolerance)
    if gradient is not None:
        torch.testing.assert_close(found[0], torch.tensor(gradient, dtype=dtype), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ROWS)
def test_nan_is_never_hidden(name: str) -> None:
    """Check that NaN in any parameter gives NaN, in the value and in the gradient."""
    columns = 4 if name == "categorical" else len(build(name).outputs)
    for column, x in itertools.product(range(columns), (0.0, 1.0)):
        parameters = torch.zeros(1, columns)
        parameters[0, column] = math.nan
        output, leaf = output_of(name, parameters)
        value = build(name).log_prob(torch.tensor([[x]]), output, 1)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        assert value.isnan().all()
        assert gradient[0, column].isnan()


def test_an_incoming_gradient_of_zero_stops_what_is_not_finite() -> None:
    for name in ("negative-binomial", "zero-inflated-negative-binomial"):
        rows = torch.tensor([(5.0, 800.0, 800.0, 0.0), (0.0, 800.0, 800.0, -INF)])[:, : len(build(name).outputs) + 1]
        output, leaf = output_of(name, rows[:, 1:].double())
        values = build(name).log_prob(rows[:, :1], output, 1)[0]
        (found,) = torch.autograd.grad(values, leaf, torch.zeros_like(values))
        assert (found == 0).all()


@pytest.mark.parametrize(
    "name",
    [
        "continuous-bernoulli",
        "negative-binomial",
        "zero-inflated-negative-binomial",
        "poisson",
        "zero-inflated-poisson",
        "student-t",
        "beta",
        "discretized-logistic",
    ],
)
def test_forward_mode(name: str) -> None:
    likelihood = build(name)
    parameters = torch.tensor([[0.5, -1.0, 0.3], [2.0, 1.0, 0.0], [-4.0, 9.0, 0.2]], dtype=torch.float64)
    parameters = parameters[: len(likelihood.outputs)]
    last = {"continuous-bernoulli": 1.0, "beta": 0.3, "discretized-logistic": 2.0}.get(name, 5.0)
    x = torch.tensor([[0.0, 1.0, last]], dtype=torch.float64)

    def density(parameters: Tensor) -> Tensor:
        parts = tuple(parameters.unsqueeze(1))
        return likelihood.log_prob(x, parts if len(parts) > 1 else parts[0], 1, backend="reference").sum()

    torch.testing.assert_close(torch.func.jacfwd(density)(parameters), torch.func.grad(density)(parameters))
    twice = torch.func.jacrev(torch.func.jacrev(density))(parameters)
    torch.testing.assert_close(torch.func.hessian(density)(parameters), twice)


def test_derivatives_of_counts() -> None:
    """Check first and second derivatives, also at a non-integer count, and batched by vmap."""
    generator = torch.Generator().manual_seed(0)
    x = torch.tensor([0.0, 1.0, 2.0, 30.0, 1000.0], dtype=torch.float64)
    s, t, logits = (torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(3))
    inflated = LIKELIHOODS["zero-inflated-negative-binomial"]()

    def density(x: Tensor, s: Tensor, t: Tensor, logits: Tensor) -> Tensor:
        return inflated.log_prob(x[None], (s[None], t[None], logits[None]), 1, backend="reference").sum()

    leaves = (s.requires_grad_(), t.requires_grad_(), logits.requires_grad_())
    assert torch.autograd.gradcheck(lambda *p: density(x, *p), leaves)
    assert torch.autograd.gradgradcheck(lambda *p: density(x, *p), leaves)
    real = torch.tensor([0.5, 1.5, 3.25, 30.0, 200.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda real: density(real, *(leaf.detach() for leaf in leaves)), real)
    batched = torch.func.vmap(torch.func.grad(density, (1, 2, 3)))(*(v.detach()[:, None] for v in (x, s, t, logits)))
    whole = torch.autograd.grad(density(x, *leaves), leaves)
    torch.testing.assert_close(torch.stack(batched).squeeze(-1), torch.stack(whole))


def test_draws_at_both_ends_of_theta() -> None:
    """Check that draws are Poisson from theta = e^40 on, and zero at theta = 0."""
    likelihood = LIKELIHOODS["negative-binomial"]()
    generator = torch.Generator().manual_seed(0)
    log_mean = torch.full((20_000,), math.log(4.0))
    for log_theta in (40.0, 800.0, INF):
        draws = likelihood.sample((log_mean, torch.full((20_000,), log_theta)), generator).double()
        assert abs(draws.mean().item() - 4.0) < 5 * 2.0 / math.sqrt(20_000)
        assert abs(draws.var().item() - 4.0) < 0.3
    for log_theta in (-800.0, -INF):
        assert (likelihood.sample((log_mean, torch.full((20_000,), log_theta)), generator) == 0).all()
    assert (
        LIKELIHOODS["zero-inflated-negative-binomial"]().mean((torch.tensor([100.0]),) * 2 + (torch.tensor([1e4]),))
        == 0
    )
