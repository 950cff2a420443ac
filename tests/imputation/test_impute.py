"""Tests of imputation against exact conditional distributions, and of its independence of chunks."""

from __future__ import annotations

import math

import pytest
import torch
from conditional_gaussian import conditional, with_prior_as_proposal
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_gaussian import exact_log_likelihood
from strategies import seeds
from torch import Tensor, nn

import iwae_fast as iw
from iwae_fast.imputation.median import weighted_median
from iwae_fast.imputation.streaming import Resampler, StreamingAverages

K = 6_000


def partly_observed(rows: int = 6, data_dim: int = 5) -> tuple[Tensor, Tensor]:
    """Return observations with NaN, of which the first row is complete and the second empty, and their mask."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(rows, data_dim, generator=generator, dtype=torch.float64)
    mask = torch.rand(rows, data_dim, generator=generator) < 0.6
    mask[0], mask[1] = True, False
    return x, mask


@pytest.fixture(scope="module")
def found() -> tuple[iw.models.VAE, Tensor, Tensor, iw.imputation.Imputation]:
    model = with_prior_as_proposal()
    x, mask = partly_observed()
    given_x = torch.where(mask, x, torch.nan)
    return model, x, mask, model.impute(given_x, num_samples=K, num_draws=400, median=True, seed=1, chunk_size=1700)


def test_mean_and_median_are_the_conditional_mean(found: tuple) -> None:
    """Compare with the exact mean, which is the median too, within four standard errors of the estimate."""
    model, x, mask, imputed = found
    mean, variance = conditional(model, x, mask)
    error = 4.0 * (variance / imputed.log_likelihood.ess[:, None]).sqrt() + 1e-9
    assert (error < 0.2).all()
    assert ((imputed.mean - mean).abs() <= error).all()
    assert ((imputed.median - mean).abs() <= math.sqrt(math.pi / 2) * error).all()
    assert torch.equal(imputed.mean[mask], x[mask])


def test_draws_have_the_conditional_variance(found: tuple) -> None:
    model, x, mask, imputed = found
    mean, variance = conditional(model, x, mask)
    draws = imputed.draws
    assert draws.shape == (400, *x.shape)
    assert torch.equal(draws[:, mask], x[mask].expand(400, -1))
    hidden = ~mask
    standardized = (draws[:, hidden] - mean[hidden]) / variance[hidden].sqrt()
    assert (standardized.mean(0).abs() < 4.5 / math.sqrt(400)).all()
    assert (standardized.var(0) - 1).abs().max() < 4.5 * math.sqrt(2 / 400)


def test_likelihood_is_that_of_the_observed_features(found: tuple) -> None:
    model, x, mask, imputed = found
    estimate = imputed.log_likelihood
    exact = exact_log_likelihood(model, x[:1])
    assert (estimate.value[0] - exact).abs().item() < 5 * estimate.std_error[0].item()
    assert estimate.value[1].item() == pytest.approx(0.0, abs=1e-9)  # nothing is observed
    again = iw.evaluate.log_likelihood(model, x, K, seed=1, mask=mask)
    torch.testing.assert_close(estimate.value, again.value, rtol=1e-10, atol=1e-10)


@settings(max_examples=8)
@given(seeds, st.integers(1, 40), st.booleans())
def test_chunks_and_shards_do_not_change_the_result(seed: int, chunk: int, by_row: bool) -> None:
    model = with_prior_as_proposal()
    x, mask = partly_observed()
    options = {"num_samples": 37, "num_draws": 3, "median": not by_row, "seed": seed}
    whole = model.impute(x, mask, **options)
    if by_row:
        single = [model.impute(x[i : i + 1], mask[i : i + 1], observation_offset=i, **options) for i in range(len(x))]
        torch.testing.assert_close(torch.cat([part.mean for part in single]), whole.mean, rtol=1e-10, atol=1e-10)
        return
    parts = model.impute(x, mask, chunk_size=chunk, **options)
    for name in ("mean", "median", "draws"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", iw.likelihoods.LIKELIHOODS)
def test_every_likelihood_imputes_in_its_support(name: str) -> None:
    likelihood = iw.likelihoods.Categorical(5) if name == "categorical" else name
    model = iw.models.DenseVAE(6, (2,), (8,), likelihood=likelihood)
    x = torch.rand(7, 6).round()
    mask = torch.rand(7, 6) < 0.5
    found = model.impute(torch.where(mask, x, torch.nan), num_samples=20, num_draws=2, median=True, seed=0)
    for tensor in (found.mean, found.median, *found.draws):
        assert tensor.shape == x.shape
        assert tensor.dtype == x.dtype
        assert torch.equal(tensor[mask], x[mask])
        assert tensor.isfinite().all()
    model.likelihood.check_support(found.draws.flatten(0, 1))


def random_weights() -> iw.models.LatentVariableModel:
    return iw.models.RandomWeightsVAE(6, 2, (8,))


def binary_latents() -> iw.models.LatentVariableModel:
    return iw.models.BernoulliVAE(nn.Linear(6, 3), nn.Linear(3, 6), latent_dim=3)


def two_layers() -> iw.models.LatentVariableModel:
    return iw.models.DenseVAE(6, (3, 2), ((8,), (4,)))


@pytest.mark.parametrize("build", [random_weights, binary_latents, two_layers])
def test_every_model_imputes(build) -> None:
    """Check the average against log-weights and expectations of the same samples."""
    torch.manual_seed(0)
    model = build()
    x, mask = torch.rand(4, 6).round(), torch.rand(4, 6) < 0.5
    found = model.impute(x, mask, 30, num_draws=2, seed=3, chunk_size=7)
    assert found.draws.shape == (2, 4, 6)
    assert ((found.draws == 0) | (found.draws == 1)).all()
    log_weights = model.eval().log_weights(x, 30, 3, mask=mask).detach()
    torch.testing.assert_close(
        found.log_likelihood.value, (torch.logsumexp(log_weights.double(), 0) - math.log(30)), rtol=1e-5, atol=1e-5
    )
    assert ((found.mean > 0) & (found.mean < 1))[~mask].all()


def test_images_integers_and_context() -> None:
    class Encoder(nn.Linear):
        def forward(self, x: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
            rows = torch.cat([x.flatten(1).float(), *context], 1)
            return super().forward(rows).chunk(2, -1)

    class Decoder(nn.Linear):
        def forward(self, z: Tensor, *context: Tensor) -> Tensor:
            return super().forward(torch.cat([z, *context], 1)).unflatten(1, (2, 3, 4))

    model = iw.models.VAE(Encoder(7, 4), Decoder(3, 24), iw.likelihoods.Categorical(4))
    x = torch.randint(4, (5, 2, 3))
    mask = torch.rand(5, 2, 3) < 0.5
    found = model.impute(x, mask, 10, num_draws=2, median=True, context=(torch.rand(5, 1),))
    assert found.mean.shape == x.shape
    assert found.mean.dtype == torch.float32
    assert found.draws.shape == (2, *x.shape)
    empty = model.impute(x[:0], mask[:0], 10, num_draws=2, median=True, context=(torch.rand(0, 1),))
    assert empty.mean.shape == (0, 2, 3)
    assert empty.draws.shape == (2, 0, 2, 3)


@given(seeds, st.integers(1, 9), st.integers(1, 4), st.integers(1, 3))
def test_median_is_the_definition(seed: int, k: int, rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(4, (k, rows, columns), generator=generator).double()
    log_weights = 3 * torch.randn(k, rows, generator=generator, dtype=torch.float64)
    found = weighted_median(values, log_weights)
    weights = torch.softmax(log_weights, 0)
    below = ((values < found) * weights[..., None]).sum(0)
    not_above = ((values <= found) * weights[..., None]).sum(0)
    assert (below < 0.5).all()
    assert (not_above >= 0.5 - 1e-9).all()
    assert (values == found).any(0).all()


@given(seeds, st.lists(st.integers(1, 5), min_size=1, max_size=4), st.sampled_from([0.0, 1e3, -1e6]))
def test_averages_of_a_stream(seed: int, sizes: list[int], shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    k = sum(sizes)
    log_weights = 5 * torch.randn(k, 3, generator=generator, dtype=torch.float64) + shift
    log_weights[0, 0] = -math.inf
    values = torch.randn(k, 3, 2, generator=generator, dtype=torch.float64)
    values[0, 0] = math.inf
    stream = StreamingAverages(3)
    for weights, value in zip(log_weights.split(sizes), values.split(sizes), strict=True):
        stream.add(weights, value)
    values[0, 0] = 0.0
    expected = (torch.softmax(log_weights, 0)[..., None] * values).sum(0)
    torch.testing.assert_close(stream.averages(), expected, rtol=1e-11, atol=1e-12, equal_nan=True)


def test_resampling_frequencies_are_the_weights() -> None:
    weights = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
    draws = 20_000
    resampler = Resampler(draws, 1)
    generator = torch.Generator().manual_seed(0)
    for start in (0, 1):  # in two parts of unequal size
        part = slice(0, 1) if start == 0 else slice(1, 4)
        noise = torch.randn(len(weights[part]), 1, draws, generator=generator, dtype=torch.float64)
        resampler.add(weights[part].log()[:, None], noise, torch.arange(4.0)[part].reshape(-1, 1, 1))
    frequencies = torch.bincount(resampler.particles.flatten().long(), minlength=4).double() / draws
    assert ((frequencies - weights).abs() <= 4.5 * (weights * (1 - weights) / draws).sqrt()).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_samples": 0}, ValueError, "num_samples must be at least 1"),
        ({"num_draws": -1}, ValueError, "num_draws must be at least 0, got -1"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1"),
        ({"mask": torch.ones(3, 6)}, TypeError, "mask must be a bool tensor"),
        ({"x": torch.full((3, 6), 2.0)}, ValueError, r"numbers from 0 to 1, but x\[0, 0\] is 2"),
    ],
)
def test_bad_arguments(options: dict, error: type[Exception], message: str) -> None:
    model = iw.models.DenseVAE(6, (2,), (8,))
    with pytest.raises(error, match=message):
        model.impute(**{"x": torch.rand(3, 6), **options})
    with pytest.raises(TypeError, match=r"model must be one of iwae_fast.models"):
        iw.imputation.impute(nn.Linear(2, 2), torch.rand(3, 6))


def test_a_model_with_its_own_weights_must_complete() -> None:
    class Own(iw.models.DenseVAE):
        def terms(self, *arguments, **options):
            return super().terms(*arguments, **options)

    with pytest.raises(TypeError, match=r"Own must define completions\(\)"):
        Own(6, (2,), (8,)).impute(torch.rand(3, 6))
