"""Tests of the likelihood of models that are not the package's: functions that draw log-weights, and distributions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from linear_gaussian import exact_log_likelihood, linear_gaussian
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Independent, MultivariateNormal, Normal

import iwae_fast as iw
from iwae_fast.evaluate import FromDistributions, FromDraws, LogLikelihood, StreamingWeights, likelihood

FIELDS = ("value", "std_error", "ess", "pareto_k")


def model_and_data(count: int = 11) -> tuple[iw.models.VAE, Tensor]:
    """Return a linear Gaussian model whose encoder is too wide, and observations."""
    model = linear_gaussian()
    with torch.no_grad():
        model.encoder.log_std += 0.3
    return model, torch.randn(count, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def assert_same(found: LogLikelihood, exact: LogLikelihood) -> None:
    for name in FIELDS:
        torch.testing.assert_close(getattr(found, name), getattr(exact, name), equal_nan=True)


class Draws:
    """The log-weights of a linear Gaussian model by torch's own generator, with a record of the calls."""

    def __init__(self, model: iw.models.VAE) -> None:
        self.model = model
        self.calls: list[tuple[int, int]] = []

    def __call__(self, x: Tensor, num_samples: int, _: int) -> Tensor:
        self.calls.append((num_samples, len(x)))
        mean, log_std = self.model.encoder(x)
        q = Normal(mean, log_std.exp())
        z = q.sample((num_samples,))
        mean, log_std = self.model.decoder(z)
        log_p = Normal(0.0, 1.0).log_prob(z).sum(-1) + Normal(mean, log_std.exp()).log_prob(x).sum(-1)
        return log_p - q.log_prob(z).sum(-1)


def by_index(model: iw.models.VAE) -> Callable[..., Tensor]:
    """Return a function whose noise is that of the model itself."""

    def draw(x: Tensor, k: int, seed: int, *, sample_offset: int, observation_offset: int, **options: Any) -> Tensor:
        offsets = {"sample_offset": sample_offset, "observation_offset": observation_offset}
        return model.log_weights(x, k, seed, **offsets, **options)

    return draw


# --- results ----------------------------------------------------------------------------------------------------


def test_a_function_gives_the_closed_form() -> None:
    model, x = model_and_data()
    found = iw.evaluate.log_likelihood(Draws(model), x, 4000, seed=1)
    exact = exact_log_likelihood(model, x).detach()
    assert ((found.value - exact).abs() < 5 * found.std_error).all()
    assert (found.std_error < 0.05).all()
    assert (found.pareto_k < 0.5).all()


@pytest.mark.parametrize("chunk_size", [None, 1, 13])
def test_a_function_with_the_noise_of_the_model_is_the_direct_path(chunk_size: int | None) -> None:
    model, x = model_and_data()
    direct = iw.evaluate.log_likelihood(model, x, 101, seed=5, observation_offset=3)
    found = iw.evaluate.log_likelihood(by_index(model), x, 101, chunk_size, 5, observation_offset=3)
    assert_same(found, direct)
    assert_same(
        iw.evaluate.log_likelihood(FromDraws(model.log_weights), x, 101, chunk_size, 5, observation_offset=3), direct
    )


def test_mask_and_context_reach_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "OBSERVATIONS_A_CHUNK", 4)
    model, x = model_and_data()
    mask = torch.arange(7) < 5
    direct = iw.evaluate.log_likelihood(model, x, 60, seed=5, mask=mask)
    assert_same(iw.evaluate.log_likelihood(by_index(model), x, 60, seed=5, mask=mask), direct)
    shift = torch.arange(11.0, dtype=torch.float64)[:, None]

    def shifted(x: Tensor, k: int, seed: int, context: tuple[Tensor, ...]) -> Tensor:
        return Draws(model)(x - context[0], k, seed)

    with pytest.raises(TypeError, match="draw must have an argument 'mask' for an evaluation with mask"):
        iw.evaluate.log_likelihood(shifted, x, 60, mask=mask)
    found = iw.evaluate.log_likelihood(shifted, x + shift, 60, seed=5, context=(shift,))
    assert_same(found, iw.evaluate.log_likelihood(Draws(model), x, 60, seed=5))


@pytest.mark.parametrize("wrapped", [False, True])
def test_distributions_give_the_numbers_of_the_same_model(wrapped: bool) -> None:
    """Compare with the package's model, whose noise a Normal has, on chunks, batches and the whole."""
    model, x = model_and_data()

    def posterior(x: Tensor) -> torch.distributions.Distribution:
        mean, log_std = model.encoder(x)
        return Independent(Normal(mean, log_std.exp()), 1) if wrapped else Normal(mean, log_std.exp())

    def log_joint(x: Tensor, z: Tensor) -> Tensor:
        mean, log_std = model.decoder(z)
        return Normal(0.0, 1.0).log_prob(z).sum(-1) + Normal(mean, log_std.exp()).log_prob(x).sum(-1)

    source = FromDistributions(posterior, log_joint, modules=model)
    direct = iw.evaluate.log_likelihood(model, x, 101, seed=5)
    assert_same(iw.evaluate.log_likelihood(source, x, 101, seed=5), direct)
    assert_same(iw.evaluate.log_likelihood(source, x.split(4), 101, 7, seed=5), direct)


def test_other_distributions_give_the_closed_form_for_any_chunk_size() -> None:
    """Use a full covariance: the exact posterior, widened."""
    model, x = model_and_data()

    def posterior(x: Tensor) -> MultivariateNormal:
        mean, log_std = model.encoder(x)
        return MultivariateNormal(mean, torch.diag_embed((2 * log_std).exp()))

    def log_joint(x: Tensor, z: Tensor) -> Tensor:
        mean, log_std = model.decoder(z)
        return Normal(0.0, 1.0).log_prob(z).sum(-1) + Normal(mean, log_std.exp()).log_prob(x).sum(-1)

    source = FromDistributions(posterior, log_joint)
    whole = iw.evaluate.log_likelihood(source, x, 2001, 2001, seed=2)
    assert ((whole.value - exact_log_likelihood(model, x).detach()).abs() < 5 * whole.std_error).all()
    for chunk_size in (None, 6, 1000):
        assert_same(iw.evaluate.log_likelihood(source, x, 2001, chunk_size, seed=2), whole)


def test_a_discrete_latent_variable_of_several_axes() -> None:
    """Compare with the sum over both values of each of 2 x 3 binary variables, which x shows with errors."""
    prior = torch.linspace(0.2, 0.8, 6, dtype=torch.float64).view(2, 3)
    x = (torch.rand(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    right = 0.8

    def log_joint(x: Tensor, z: Tensor) -> Tensor:
        agrees = Bernoulli(probs=torch.full_like(z, right)).log_prob((z == x).double())
        return (Bernoulli(probs=prior).log_prob(z) + agrees).flatten(2).sum(-1)

    source = FromDistributions(lambda x: Bernoulli(probs=0.3 + 0.4 * x), log_joint)
    found = iw.evaluate.log_likelihood(source, x, 3000, seed=1)
    p_one = prior * right + (1 - prior) * (1 - right)
    exact = Bernoulli(probs=p_one).log_prob(x).flatten(1).sum(-1)
    assert ((found.value - exact).abs() < 5 * found.std_error).all()

    kinds = FromDistributions(
        lambda x: Categorical(logits=torch.zeros(len(x), 4)), lambda x, z: torch.zeros(z.shape) + (z == 0).log()
    )
    exactly_a_quarter = iw.evaluate.log_likelihood(kinds, x, 2000, seed=1)
    assert (exactly_a_quarter.value.exp() - 1.0).abs().max() < 0.2  # 4 p(z = 0) with p(x, z) = 1 at 0


# --- noise, samples and chunks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 7, 30, 100, 1000])
def test_every_sample_is_drawn_once(chunk_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "OBSERVATIONS_A_CHUNK", 4)
    model, x = model_and_data()
    draws, done = Draws(model), []
    iw.evaluate.log_likelihood(draws, x, 100, chunk_size, progress=done.append)
    by_size = {rows: sum(k for k, size in draws.calls if size == rows) for rows in (4, 3)}
    assert by_size == {4: 200, 3: 100}
    assert max(k for k, _ in draws.calls) <= chunk_size
    assert done == [k * rows for k, rows in draws.calls]


def test_a_seed_repeats_the_result_and_leaves_the_generator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "OBSERVATIONS_A_CHUNK", 4)
    model, x = model_and_data()
    x = x[:1].expand(11, 7)
    torch.manual_seed(4)
    one = iw.evaluate.log_likelihood(Draws(model), x, 50, 10, seed=1)
    after = torch.rand(3)
    torch.manual_seed(4)
    assert torch.equal(torch.rand(3), after)
    assert_same(iw.evaluate.log_likelihood(Draws(model), x.split(5), 50, 10, seed=1), one)
    assert len(one.value.unique()) == 11  # each chunk of observations has its own noise
    assert not torch.equal(iw.evaluate.log_likelihood(Draws(model), x, 50, 10, seed=2).value, one.value)


def test_the_seed_of_a_call_is_its_own() -> None:
    seeds: list[int] = []

    def draw(x: Tensor, num_samples: int, seed: int) -> Tensor:
        seeds.append(seed)
        return torch.zeros(num_samples, len(x))

    for _ in range(2):
        iw.evaluate.log_likelihood(draw, torch.zeros(300, 2), 32, 16, seed=3)
    assert len(set(seeds)) == 4
    assert seeds[:4] == seeds[4:]
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_networks_run_in_evaluation_mode() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout(0.9)
            self.weight = nn.Parameter(torch.ones(2))

        def log_weights(self, x: Tensor, num_samples: int, _: int) -> Tensor:
            return self.dropout(x @ self.weight).expand(num_samples, len(x))

    module, x = Noisy(), torch.rand(5, 2)
    found = iw.evaluate.log_likelihood(module.log_weights, x, 3)
    torch.testing.assert_close(found.value, x.sum(1).double())
    assert module.training
    assert module.dropout.training
    for source in (FromDraws(module.log_weights, [module]), FromDistributions(module.log_weights, len, module.dropout)):
        assert len(list(source.module.parameters())) == 1


def test_half_the_rows_where_memory_is_short() -> None:
    model, x = model_and_data()
    draws = Draws(model)

    def short_of_memory(x: Tensor, num_samples: int, seed: int) -> Tensor:
        if num_samples > 100:
            raise torch.OutOfMemoryError
        return draws(x, num_samples, seed)

    iw.evaluate.log_likelihood(short_of_memory, x, 1000)
    assert sum(k for k, _ in draws.calls) == 1000
    assert max(k for k, _ in draws.calls) > 50


# --- journals ---------------------------------------------------------------------------------------------------


def test_an_interrupted_evaluation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "OBSERVATIONS_A_CHUNK", 4)
    (model, x), journal = model_and_data(), tmp_path / "evaluation.npz"
    whole = iw.evaluate.log_likelihood(Draws(model), x, 60, 10, seed=1)
    done: list[int] = []

    def stop(pairs: int) -> None:
        done.append(pairs)
        if sum(done) > 4 * 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        iw.evaluate.log_likelihood(Draws(model), x, 60, 10, seed=1, journal=journal, progress=stop)
    again = Draws(model)
    resumed = iw.evaluate.log_likelihood(again, x, 60, 10, journal=journal)
    for name in FIELDS:
        assert torch.equal(getattr(resumed, name), getattr(whole, name))
    assert sum(k for k, rows in again.calls if k == 10) == 2 * 60  # besides the probe, of 4 samples
    with torch.no_grad():
        model.decoder.bias += 1e-3
    for other in (Draws(model), FromDraws(Draws(model), modules=model)):
        with pytest.raises(ValueError, match="another evaluation"):
            iw.evaluate.log_likelihood(other, x, 60, 10, journal=journal)


def test_a_journal_refuses_noise_that_no_seed_repeats(tmp_path: Path) -> None:
    numbers = np.random.default_rng()

    def draw(x: Tensor, num_samples: int, _: int) -> Tensor:
        return torch.from_numpy(numbers.normal(size=(num_samples, len(x))))

    with pytest.raises(ValueError, match="the same for the same seed"):
        iw.evaluate.log_likelihood(draw, torch.zeros(3, 2), 10, journal=tmp_path / "evaluation.npz")


# --- errors -----------------------------------------------------------------------------------------------------


def constant(make: Callable[[int, int], Any]) -> Callable[..., Any]:
    return lambda x, num_samples, seed: make(num_samples, len(x))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda k, b: np.zeros((k, b)), TypeError, r"draw must return \(k, B\) = \(6, 3\), a tensor, got ndarray"),
        (lambda k, b: torch.zeros(k), ValueError, r"= \(6, 3\), got \(6,\)$"),
        (lambda k, b: torch.zeros(b, k), ValueError, r"got \(3, 6\): the samples are the first axis"),
        (lambda k, b: torch.zeros(k, b).half(), TypeError, "of float32 or float64, got torch.float16"),
        (lambda k, b: torch.zeros(k, b, dtype=torch.long), TypeError, "got torch.int64"),
        (lambda k, b: torch.zeros(k, b, device="meta"), ValueError, "the device of x, cpu, got meta"),
        (lambda k, b: torch.zeros(k, b).requires_grad_(), ValueError, r"without a graph, .* return it.detach\(\)"),
        (
            lambda k, b: torch.where(torch.arange(k * b).view(k, b) == 7, torch.nan, 0.0),
            ValueError,
            "got NaN for sample 2 of observation 5",
        ),
    ],
)
def test_what_a_function_must_not_return(make: Callable, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        iw.evaluate.log_likelihood(constant(make), torch.zeros(3, 2), 6, observation_offset=4)


def test_impossible_samples_are_no_error() -> None:
    found = iw.evaluate.log_likelihood(constant(lambda k, b: torch.full((k, b), -torch.inf)), torch.zeros(3, 2), 6)
    assert (found.value == -torch.inf).all()


def test_no_observations_and_observations_without_features() -> None:
    refused = constant(lambda k, b: pytest.fail("a call without observations"))
    assert len(iw.evaluate.log_likelihood(refused, torch.zeros(0, 2), 6).value) == 0
    one_number_each = constant(lambda k, b: torch.zeros(k, b))
    assert len(iw.evaluate.log_likelihood(one_number_each, torch.zeros(5), 6).value) == 5


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(2, 2), "model must be one of iwae_fast.models, .*, or a function draw.* got Linear"),
        (iw.models.DenseVAE, "got the class DenseVAE"),
        ("model", "got str"),
        (lambda x, k, seed, sample_offset: None, "draw must have both .* got only sample_offset"),
    ],
)
def test_what_is_not_a_model(model: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        iw.evaluate.log_likelihood(model, torch.zeros(3, 2), 6)


@pytest.mark.parametrize(
    ("posterior", "log_joint", "error", "message"),
    [
        (lambda x: x, None, TypeError, r"posterior\(x\) must be a torch.distributions.Distribution, got Tensor"),
        (
            lambda x: Normal(torch.zeros(2), 1.0),
            None,
            ValueError,
            r"\(B = 3, ...\), got a Normal with batch_shape \(2,",
        ),
        (
            lambda x: Normal(x, 1.0),
            lambda x, z: z,
            ValueError,
            r"log_joint must return \(k, B\) = \(6, 3\), got \(6, 3, 2\)",
        ),
    ],
)
def test_what_distributions_do_not_fit(posterior: Any, log_joint: Any, error: type[Exception], message: str) -> None:
    source = FromDistributions(posterior, log_joint or (lambda x, z: None))
    with pytest.raises(error, match=message):
        iw.evaluate.log_likelihood(source, torch.zeros(3, 2), 6)


def test_arguments_of_adapters() -> None:
    with pytest.raises(TypeError, match=r"draw must be a function .* got the class Linear"):
        FromDraws(nn.Linear)
    with pytest.raises(TypeError, match="posterior must be a function, got Tensor"):
        FromDistributions(torch.zeros(2), len)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="modules must be torch.nn.Modules, got str"):
        FromDraws(len, modules=["encoder"])  # type: ignore[list-item]


# --- streams ----------------------------------------------------------------------------------------------------


def test_a_stream_of_log_weights() -> None:
    log_weights = 3.0 * torch.randn(200, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = constant(lambda k, b: log_weights)
    exact = iw.evaluate.log_likelihood(model, torch.zeros(4, 1), 200, chunk_size=200)
    whole, halves = StreamingWeights(200, 4), [StreamingWeights(200, 4) for _ in range(2)]
    for part in log_weights.split(33):
        whole.add(part)
    halves[0].add(log_weights[:70].float().double())
    halves[1].add(log_weights[70:])
    assert_same(whole.log_likelihood(), exact)
    halves[0].merge(halves[1])
    torch.testing.assert_close(halves[0].log_likelihood().value, exact.value, rtol=1e-6, atol=1e-6)
    # Part of a stream has the k-hat of its own number of samples.
    part = StreamingWeights(200, 4)
    part.add(log_weights[:50])
    torch.testing.assert_close(part.log_likelihood().pareto_k, iw.diagnostics.pareto_k(log_weights[:50]))


def test_what_a_stream_does_not_take() -> None:
    stream = StreamingWeights(10, 4)
    with pytest.raises(ValueError, match="at least one sample"):
        stream.log_likelihood()
    stream.add(torch.zeros(8, 4))
    for part, error, message in (
        (torch.zeros(8, 3), ValueError, r"log_weights must be \(n, B = 4\), got \(8, 3\)"),
        (torch.zeros(3, 4), ValueError, "at most the 2 samples that are left of num_samples = 10, got 3"),
        (torch.zeros(1, 4, dtype=torch.long), TypeError, "log_weights must be"),
    ):
        with pytest.raises(error, match=message):
            stream.add(part)
    other = StreamingWeights(10, 4)
    other.add(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="at most num_samples = 10 samples together, got 8 and 3"):
        stream.merge(other)
    with pytest.raises(ValueError, match="the same observations, got 4 and 5"):
        stream.merge(StreamingWeights(10, 5))
