"""Tests of likelihoods against torch.distributions in float64, and of models that use them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import seeds
from torch import Tensor, nn
from torch.distributions import (
    Beta,
    ContinuousBernoulli,
    Dirichlet,
    Distribution,
    Normal,
    Poisson,
    StudentT,
    constraints,
)

import iwae_fast as iw
from iwae_fast.likelihoods import LIKELIHOODS, Categorical, DiscretizedLogistic, FromDistribution, Gaussian, Likelihood
from iwae_fast.likelihoods.continuous_bernoulli import log_normalizer

K, B, D = 3, 4, 5
CLASSES = 7


def zero_inflated(output: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
    log_mean, log_theta, logits = output
    dropout = logits.sigmoid()
    counted = negative_binomial((log_mean, log_theta), x).exp()
    return torch.where(x == 0, dropout + (1 - dropout) * counted, (1 - dropout) * counted).log()


def negative_binomial(output: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    log_mean, log_theta = output
    return torch.distributions.NegativeBinomial(log_theta.exp(), logits=log_mean - log_theta).log_prob(x)


def categorical(output: Tensor, x: Tensor) -> Tensor:
    return torch.distributions.Categorical(logits=output.unflatten(-1, (D, CLASSES))).log_prob(x)


def zero_inflated_poisson(output: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    log_rate, logits = output
    counted = Poisson(log_rate.exp()).log_prob(x).exp()
    return torch.where(x == 0, logits.sigmoid() + (-logits).sigmoid() * counted, (-logits).sigmoid() * counted).log()


def discretized_logistic(output: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    mean, scale = output[0], output[1].exp()
    above, below = (((x + half) / (CLASSES - 1) - mean) / scale for half in (0.5, -0.5))
    above, below = torch.where(x == CLASSES - 1, math.inf, above), torch.where(x == 0, -math.inf, below)
    flipped = below > 0  # the difference of two probabilities near 1 would cancel
    above, below = torch.where(flipped, -below, above), torch.where(flipped, -above, below)
    return (above.sigmoid() - below.sigmoid()).log()


BUILD: dict[str, Callable[[], Likelihood]] = {
    **LIKELIHOODS,
    "gaussian of 0.3": lambda: Gaussian(0.3),
    "categorical": lambda: Categorical(CLASSES),
    "discretized-logistic": lambda: DiscretizedLogistic(CLASSES),
    "Poisson": lambda: FromDistribution(lambda output: Poisson(output.exp())),
}
BY_FEATURE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "bernoulli": lambda o, x: torch.distributions.Bernoulli(logits=o, validate_args=False).log_prob(x),
    "continuous-bernoulli": lambda o, x: ContinuousBernoulli(logits=o, lims=(0.4999, 0.5001)).log_prob(x),
    "gaussian": lambda o, x: Normal(o[0], o[1].exp()).log_prob(x),
    "gaussian-fixed": lambda o, x: Normal(o, 1.0).log_prob(x),
    "gaussian-learned": lambda o, x: Normal(o, 1.0).log_prob(x),
    "gaussian of 0.3": lambda o, x: Normal(o, 0.3).log_prob(x),
    "negative-binomial": negative_binomial,
    "zero-inflated-negative-binomial": zero_inflated,
    "categorical": categorical,
    "Poisson": lambda o, x: Poisson(o.exp()).log_prob(x),
    "poisson": lambda o, x: Poisson(o.exp()).log_prob(x),
    "zero-inflated-poisson": zero_inflated_poisson,
    "student-t": lambda o, x: StudentT(o[2].exp(), o[0], o[1].exp()).log_prob(x),
    "beta": lambda o, x: Beta(o[0].sigmoid() * o[1].exp(), (-o[0]).sigmoid() * o[1].exp()).log_prob(x),
    "discretized-logistic": discretized_logistic,
}
CANCELING = ("continuous-bernoulli", "discretized-logistic")
"""Likelihoods whose definitions, with which they are compared here, cancel."""
every = pytest.mark.parametrize("name", BUILD)


def observations(name: str, generator: torch.Generator) -> Tensor:
    """Return observations (B, D) in the support of the likelihood."""
    # The support of a FromDistribution is that of the distribution that it builds.
    support = constraints.nonnegative_integer if name == "Poisson" else BUILD[name]().support
    uniform = torch.rand(B, D, generator=generator, dtype=torch.float64)
    if support.is_discrete:
        return torch.floor(CLASSES * uniform**2)
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None:
        return 4 * uniform - 2
    return low + uniform * (4 if high is None else high - low)


def outputs(likelihood: Likelihood, generator: torch.Generator, scale: float = 1.0) -> tuple[Tensor, ...]:
    return tuple(
        scale * torch.randn(K * B, size, generator=generator, dtype=torch.float64)
        for size in likelihood.output_sizes(D).values()
    )


def as_output(parts: tuple[Tensor, ...]) -> Any:
    return parts if len(parts) > 1 else parts[0]


def by_sample(parts: tuple[Tensor, ...]) -> Any:
    return as_output(tuple(part.unflatten(0, (K, B)) for part in parts))


@every
@settings(max_examples=10)
@given(seeds, st.sampled_from([0.01, 1.0, 3.0]), st.booleans(), st.sampled_from([torch.float32, torch.float64]))
def test_log_prob_is_the_distributions(name: str, seed: int, scale: float, masked: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    likelihood = BUILD[name]()
    parts = tuple(part.to(dtype) for part in outputs(likelihood, generator, scale))
    x = observations(name, generator).to(dtype)
    terms = BY_FEATURE[name](by_sample(tuple(part.double() for part in parts)), x.double())
    mask = None
    if masked:
        mask = torch.rand(B, D, generator=generator) < 0.6
        terms = torch.where(mask, terms, 0.0)
        x = torch.where(mask, x, torch.nan)
    assume(bool(terms.isfinite().all()))  # torch's own densities overflow earlier; others are compared with mpmath
    found = likelihood.log_prob(x, as_output(parts), K, mask)
    assert found.shape == (K, B)
    assert found.dtype == dtype
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-7 if name in CANCELING else 1e-11}[dtype]
    torch.testing.assert_close(found.double(), terms.sum(-1), rtol=tolerance, atol=tolerance)


@every
def test_gradients(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    likelihood = BUILD[name]().double()
    parts = tuple(part.requires_grad_() for part in outputs(likelihood, generator))
    x = observations(name, generator)
    mask = torch.rand(B, D, generator=generator) < 0.6
    x = torch.where(mask, x, torch.nan)
    parameters = tuple(likelihood.parameters())
    assert torch.autograd.gradcheck(
        lambda *t: likelihood.log_prob(x, as_output(t[: len(parts)]), K, mask), (*parts, *parameters)
    )


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_that_of_its_rounded_inputs(name: str, dtype: torch.dtype) -> None:
    if name == "Poisson":
        pytest.skip("torch.distributions computes in the dtype it is given")
    generator = torch.Generator().manual_seed(1)
    likelihood = BUILD[name]().to(dtype)
    parts = tuple(part.to(dtype).requires_grad_() for part in outputs(likelihood, generator))
    x = observations(name, generator).to(dtype)
    found = likelihood.log_prob(x, as_output(parts), K)
    expected = likelihood.float().log_prob(x.float(), as_output(tuple(p.detach().float() for p in parts)), K)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found.sum().backward()
    assert all(part.grad.dtype == dtype and part.grad.isfinite().all() for part in parts)


def continuous_normalizer_by_integration(logits: Tensor) -> Tensor:
    """Compute -log of the integral of e^(l x) / (1 + e^l) over [0, 1] by Simpson's rule."""
    x = torch.linspace(0, 1, 20001, dtype=torch.float64)
    weights = torch.full_like(x, 2.0)
    weights[1::2] = 4.0
    weights[0] = weights[-1] = 1.0
    heights = torch.exp(logits[:, None] * x - nn.functional.softplus(logits)[:, None])
    return -torch.log((heights * weights).sum(-1) / (3 * 20000))


def test_continuous_bernoulli_normalizer() -> None:
    """Test the normalizer and its slope on both sides of the end of the series, and far from 0."""
    sizes = torch.tensor([0.0, 1e-8, 1e-4, 0.1, 0.3, 0.4999, 0.5001, 1.0, 5.0, 30.0], dtype=torch.float64)
    logits = torch.cat([-sizes, sizes]).requires_grad_()
    expected = continuous_normalizer_by_integration(logits)
    torch.testing.assert_close(log_normalizer(logits), expected, rtol=1e-12, atol=1e-12)
    (slope,) = torch.autograd.grad(log_normalizer(logits).sum(), logits, create_graph=True)
    (exact,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(slope, exact, rtol=1e-11, atol=1e-11)
    single = logits.detach().float().requires_grad_()
    (in_single,) = torch.autograd.grad(log_normalizer(single).sum(), single)
    torch.testing.assert_close(in_single.double(), exact, rtol=0, atol=1e-6)
    huge = torch.tensor([-1e4, 1e4], requires_grad=True)
    log_normalizer(huge).sum().backward()
    torch.testing.assert_close(huge.grad, 1.0 / huge.detach())
    mean = LIKELIHOODS["continuous-bernoulli"]().mean(logits.detach())
    torch.testing.assert_close(mean, ContinuousBernoulli(logits=logits.detach()).mean, rtol=0, atol=1e-5)


@settings(max_examples=40)
@given(
    st.sampled_from([0, 1, 2, 17, 1000, 100_000, 10_000_000]),
    st.floats(-20, 16),
    st.floats(-12, 12),
    st.floats(-30, 30),
)
def test_counts_in_single_precision(count: int, log_mean: float, log_theta: float, logits: float) -> None:
    """Bound the error by that of rounding the inputs, for large means and counts and any dispersion."""
    single = tuple(torch.tensor([[number]]) for number in (log_mean, log_theta, logits))
    double = tuple(part.double() for part in single)
    x = torch.tensor([[float(count)]])
    counted = LIKELIHOODS["negative-binomial"]()
    expected = negative_binomial(double[:2], x.double())
    torch.testing.assert_close(counted.log_prob(x, single[:2], 1).double(), expected, rtol=2e-7, atol=1e-6)
    inflated = LIKELIHOODS["zero-inflated-negative-binomial"]().log_prob(x, single, 1)
    miss = nn.functional.softplus(double[2])
    expected = (torch.logaddexp(double[2], expected) if count == 0 else expected) - miss
    torch.testing.assert_close(inflated.double(), expected, rtol=2e-7, atol=1e-6)
    assert torch.equal(inflated, LIKELIHOODS["zero-inflated-negative-binomial"]().log_prob(x.long(), single, 1))


@pytest.mark.parametrize("name", [name for name in BUILD if name != "Poisson"])
def test_draws_have_the_mean(name: str) -> None:
    likelihood = BUILD[name]()
    generator = torch.Generator().manual_seed(3)
    parts = tuple(0.5 * part[:1].float() for part in outputs(likelihood, generator))
    repeated = tuple(part.expand(40_000, -1) for part in parts)
    draws = likelihood.sample(as_output(repeated), generator)
    again = likelihood.sample(as_output(repeated), torch.Generator().manual_seed(4))
    mean = likelihood.mean(as_output(parts))
    assert draws.shape == again.shape == (40_000, D)
    error = 5 * draws.double().std(0) / 200
    assert ((draws.double().mean(0) - mean.double()).abs() < error).all()
    if name.startswith("negative"):
        mu, theta = (part.exp().double() for part in parts)
        torch.testing.assert_close(draws.double().var(0), (mu + mu**2 / theta)[0], rtol=0.1, atol=0)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_dense_models_of_every_likelihood_train(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x = observations(name, generator).float()
    likelihood = Categorical(CLASSES) if name == "categorical" else name
    model = iw.models.DenseVAE(D, (2,), (8,), likelihood=likelihood, data_mean=x.mean(0))
    objective = iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=5, budget=2)
    mask = torch.rand(B, D, generator=generator) < 0.7
    objective(model, torch.where(mask, x, torch.nan), mask=mask, seed=1).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.reconstruct(x).shape == x.shape
    assert model.sample(6, seed=1).shape == (6, D)
    assert iw.evaluate.log_likelihood(model, x, 30).value.isfinite().all()
    assert model.likelihood.sample(model.decoder(model.prior_draws(6, 1))).shape == (6, D)


def test_data_mean_is_where_the_output_starts() -> None:
    mean = torch.tensor([0.2, 0.9, 0.5])
    for name in ("bernoulli", "gaussian", "gaussian-fixed", "gaussian-learned", "negative-binomial"):
        model = iw.models.DenseVAE(3, (2,), (4,), likelihood=name, data_mean=mean)
        output = model.decoder(torch.zeros(1, 2))
        torch.testing.assert_close(model.likelihood.mean(output), mean[None], msg=name)


def test_learned_scale_is_a_parameter_of_the_model() -> None:
    model = iw.models.DenseVAE(D, (2,), (8,), likelihood="gaussian-learned").double()
    assert "likelihood.log_std" in dict(model.named_parameters())
    assert "likelihood.log_std" in model.state_dict()
    x = 0.1 * torch.randn(200, D, dtype=torch.float64)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    objective = iw.Objective(iw.bounds.IWAE(), num_samples=5)
    for step in range(100):
        optimizer.zero_grad()
        objective(model, x, seed=step).backward()
        optimizer.step()
    assert model.likelihood.log_std.exp().item() < 0.2


def test_dense_encoder_sees_counts_on_a_logarithmic_scale() -> None:
    model = iw.models.DenseVAE(D, (2,), (8,), likelihood="negative-binomial")
    plain = iw.models.DenseVAE(D, (2,), (8,))
    plain.encoder.load_state_dict(model.encoder.state_dict())
    counts = torch.tensor([[0, 1, 10, 1000, 100_000]])
    torch.testing.assert_close(model.encode(counts), plain.encode(torch.log1p(counts.float())))
    levels = iw.models.DenseVAE(D, (2,), (8,), likelihood="categorical")
    plain.encoder.load_state_dict(levels.encoder.state_dict())
    indices = torch.tensor([[0, 1, 10, 100, 255]])
    torch.testing.assert_close(levels.encode(indices), plain.encode(indices / 255))


def test_classes_of_images() -> None:
    """Test images with the class logits on the last axis, and integer observations."""
    decoder = nn.Sequential(nn.Linear(2, 4 * 4 * CLASSES), nn.Unflatten(1, (4, 4, CLASSES)))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    model = iw.models.VAE(Halves(encoder), decoder, Categorical(CLASSES), latent_dim=2)
    x = torch.randint(CLASSES, (B, 4, 4)).float()
    assert model.log_weights(x, K).shape == (K, B)
    assert model.sample(3).shape == (3, 4, 4)
    assert model.reconstruct(x).shape == x.shape
    logits = torch.randn(B, 4, 4, CLASSES)
    whole = Categorical(CLASSES).log_prob(x.long(), logits, 1)
    assert torch.equal(whole, Categorical(CLASSES).log_prob(x, logits.flatten(1), 1))


class Halves(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.net(x).chunk(2, -1)
        return mean, log_std


def test_from_distribution() -> None:
    """Test several outputs, events, and a support without 0."""

    def beta(output: tuple[Tensor, Tensor]) -> Distribution:
        return Beta(*(part.exp() for part in output))

    likelihood = FromDistribution(beta, ("log_a", "log_b"), masked_value=0.5)
    model = iw.models.DenseVAE(D, (2,), (8,), likelihood=likelihood)
    x = 0.1 + 0.8 * torch.rand(B, D)
    mask = torch.rand(B, D) < 0.6
    iw.Objective(iw.bounds.IWAE(), num_samples=4)(model, torch.where(mask, x, torch.nan), mask=mask).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert model.likelihood.sample(model.decoder(torch.zeros(6, 2))).shape == (6, D)
    joint = FromDistribution(lambda output: Dirichlet(output.exp()))
    x = torch.rand(B, D).softmax(-1)
    output = torch.randn(K * B, D)
    expected = Dirichlet(output.exp().unflatten(0, (K, B))).log_prob(x)
    torch.testing.assert_close(joint.log_prob(x, output, K), expected)
    with pytest.raises(ValueError, match=r"a mask needs features that are independent: build made events \(5,\)"):
        joint.log_prob(x, output, K, mask)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_empty_batch_and_one_sample(name: str) -> None:
    likelihood = BUILD[name]()
    parts = outputs(likelihood, torch.Generator().manual_seed(1))
    empty = as_output(tuple(part[:0] for part in parts))
    assert likelihood.log_prob(torch.zeros(0, D), empty, K).shape == (K, 0)
    one = as_output(tuple(part[:B] for part in parts))
    assert likelihood.log_prob(torch.zeros(B, D), one, 1).shape == (1, B)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: Gaussian("learnt"),
            ValueError,
            "scale must be 'decoder', 'learned' or a number above 0, got 'learnt'",
        ),
        (lambda: Gaussian(0.0), ValueError, "scale must be"),
        (lambda: Categorical(0), ValueError, "num_classes must be at least 1"),
        (lambda: FromDistribution(3), TypeError, "build must be a function"),
        (lambda: iw.models.DenseVAE(D, likelihood="poison"), ValueError, "likelihood must be one of bernoulli, conti"),
        (lambda: iw.models.DenseVAE(D, likelihood=3), TypeError, "likelihood must be a name or an"),
        (
            lambda: LIKELIHOODS["zero-inflated-negative-binomial"]().log_prob(
                torch.zeros(B, D), (torch.zeros(B, D),), 1
            ),
            TypeError,
            r"decoder must return \(log_mean, log_theta, dropout_logits\), got tuple of 1",
        ),
        (
            lambda: Categorical(3).log_prob(torch.zeros(B, D), torch.zeros(B, D), 1),
            ValueError,
            r"logits \(4, 5\) do not fit observations \(4, 5\) with k = 1: expected \(4, ...\) with 15 features",
        ),
        (
            lambda: LIKELIHOODS["negative-binomial"]().log_prob(
                torch.zeros(B, D), (torch.zeros(B, D), torch.zeros(B, 1)), 1
            ),
            ValueError,
            r"log_theta \(4, 1\) do not fit",
        ),
        (
            lambda: FromDistribution(lambda o: Poisson(o.exp())).log_prob(torch.zeros(B, D), torch.zeros(B, 3), 1),
            ValueError,
            r"shape \(1, 4, 3\) over events \(\), which does not fit observations \(4, 5\) with k = 1",
        ),
        (
            lambda: FromDistribution(lambda o: o).log_prob(torch.zeros(B, D), torch.zeros(B, D), 1),
            TypeError,
            "build must return a torch.distributions object, got Tensor",
        ),
        (
            lambda: FromDistribution(Poisson).sample(torch.ones(B, D), torch.Generator()),
            ValueError,
            "generator must be None",
        ),
    ],
)
def test_bad_arguments(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


OUTSIDE = {
    "bernoulli": (253.0, "numbers from 0 to 1, but x\\[2, 3\\] is 253; divide pixels from 0 to 255 by 255"),
    "continuous-bernoulli": (-0.5, "numbers from 0 to 1, but x\\[2, 3\\] is -0.5$"),
    "negative-binomial": (2.5, "whole numbers of at least 0, but x\\[2, 3\\] is 2.5"),
    "zero-inflated-negative-binomial": (-1.0, "whole numbers of at least 0, but x\\[2, 3\\] is -1"),
    "poisson": (-2.0, "whole numbers of at least 0, but x\\[2, 3\\] is -2"),
    "beta": (1.5, "numbers from 0 to 1, but x\\[2, 3\\] is 1.5"),
    "discretized-logistic": (0.5, "whole numbers from 0 to 255, but x\\[2, 3\\] is 0.5"),
    "categorical": (256.0, "whole numbers from 0 to 255, but x\\[2, 3\\] is 256"),
}


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("masked", [False, True])
def test_observations_outside_the_support_are_an_error(name: str, masked: bool) -> None:
    """Refuse them in the first call of every function of log-weights and in evaluations, unless masked."""
    value, message = OUTSIDE[name]
    good, bad = torch.ones(4, 6), torch.ones(4, 6)
    bad[2, 3] = value
    mask = bad == 1.0 if masked else None

    def model() -> iw.models.DenseVAE:
        return iw.models.DenseVAE(6, (2,), (5,), likelihood=name)

    calls = [
        lambda m, x: iw.Objective(iw.bounds.IWAE(), num_samples=2)(m, x, mask=mask),
        lambda m, x: m.log_weights(x, 2, mask=mask),
        lambda m, x: iw.evaluate.log_likelihood(m, x, 2, mask=mask),
    ]
    for call in calls:
        fresh = model()
        call(fresh, good)
        fresh = model()
        if masked:
            call(fresh, bad)
            continue
        for _ in range(2):
            with pytest.raises(ValueError, match=message):
                call(fresh, bad)
        call(fresh, good)
    met = model()
    calls[0](met, good)
    if not masked:
        with pytest.raises(ValueError, match=message):
            calls[2](met, bad)


def test_a_wrong_mask_is_named_at_the_first_call() -> None:
    objective, x = iw.Objective(iw.bounds.IWAE(), num_samples=2), torch.rand(3, 6)
    for mask, error, message in (
        (torch.ones(3, 6), TypeError, "mask must be a bool tensor"),
        (torch.ones(2, 6, dtype=torch.bool), ValueError, r"mask \(2, 6\)"),
    ):
        with pytest.raises(error, match=message):
            objective(iw.models.DenseVAE(6, (2,), (5,)), x, mask=mask)


def test_rounding_and_nan_are_not_outside_the_support() -> None:
    bernoulli, real = iw.likelihoods.Bernoulli(), iw.likelihoods.Gaussian()
    bernoulli.check_support(torch.tensor([[1.0000001, -1e-7, 0.3, math.nan]]))
    bernoulli.check_support(torch.tensor([[True, False]]))
    bernoulli.check_support(torch.empty(0, 3))
    real.check_support(torch.tensor([[1e9, -1e9, math.inf]]))
    with pytest.raises(ValueError, match=r"x\[0, 0\] is 1.001;"):
        bernoulli.check_support(torch.tensor([[1.001]]))


def test_nothing_is_looked_at_while_a_graph_is_traced() -> None:
    """Skip the check of the data while tracing: reading them would break the graph."""
    torch._dynamo.reset()
    model, x = iw.models.DenseVAE(6, (2,), (5,)), torch.rand(3, 6)
    bound = iw.Objective(iw.bounds.IWAE(), num_samples=2).bind(model)
    compiled = torch.compile(bound, fullgraph=True, backend="aot_eager")
    seed = torch.tensor(3)
    torch.testing.assert_close(compiled(x, seed=seed), bound(x, seed=seed))
    torch.testing.assert_close(compiled(x, seed=seed), bound(x, seed=seed))
