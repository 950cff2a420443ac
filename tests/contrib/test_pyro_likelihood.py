"""Tests of the likelihood of Pyro models against closed forms, and against Pyro's own importance weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from linear_gaussian import exact_log_likelihood, linear_gaussian
from torch import Tensor, nn

pytest.importorskip("pyro", reason="pyro-ppl, of the extra pyro, is not installed")

import pyro
import pyro.distributions as dist
from pyro.infer.autoguide import AutoNormal
from pyro.infer.importance import vectorized_importance_weights

import iwae_fast as iw
from iwae_fast.contrib.pyro import IWAE_ELBO, FromPyro


@pytest.fixture(autouse=True)
def clear() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    yield
    torch.set_default_dtype(torch.float32)


class LinearGaussian:
    """A linear Gaussian model and a guide that is its posterior, widened, as Pyro programs."""

    def __init__(self) -> None:
        self.networks = linear_gaussian()
        self.x = torch.randn(9, 7, generator=torch.Generator().manual_seed(1))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            mean, log_std = self.networks.decoder(z)
            pyro.sample("x", dist.Normal(mean, log_std.exp()).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        mean, log_std = self.networks.encoder(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mean, 1.3 * log_std.exp()).to_event(1))


def test_a_pyro_model_gives_the_closed_form() -> None:
    programs = LinearGaussian()
    source = FromPyro(programs.model, programs.guide, modules=programs.networks)
    found = iw.evaluate.log_likelihood(source, programs.x, 4000, seed=1)
    exact = exact_log_likelihood(programs.networks, programs.x).detach()
    assert ((found.value - exact).abs() < 5 * found.std_error).all()
    assert (found.pareto_k < 0.5).all()
    again = FromPyro(programs.model, programs.guide, max_plate_nesting=1)
    for x in (programs.x, programs.x.split(2)):  # whether the plates are counted or given, for a tensor or a loader
        assert torch.equal(iw.evaluate.log_likelihood(again, x, 4000, seed=1).value, found.value)


def test_log_weights_are_those_of_pyro_on_the_same_draws() -> None:
    programs, k = LinearGaussian(), 50
    torch.manual_seed(3)
    found = IWAE_ELBO(k, max_plate_nesting=1).log_weights(programs.model, programs.guide, programs.x)
    torch.manual_seed(3)
    total, *_ = vectorized_importance_weights(
        programs.model, programs.guide, programs.x, num_samples=k, max_plate_nesting=1, normalized=False
    )
    assert found.shape == (k, 9)
    torch.testing.assert_close(found.sum(1), total)  # Pyro has one weight for all observations
    torch.testing.assert_close(
        iw.log_mean_exp(found).sum(), -IWAE_ELBO(k, max_plate_nesting=1).differentiable_loss(*_same_seed(programs))
    )


def _same_seed(programs: LinearGaussian) -> tuple:
    torch.manual_seed(3)
    return programs.model, programs.guide, programs.x


def test_discrete_latent_variables_context_and_an_autoguide(tmp_path: Path) -> None:
    """Compare with sums over the values of a binary variable, whose prior is given as context."""

    def model(x: Tensor, prior: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(probs=prior))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor, _: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(probs=torch.sigmoid(x - 0.5)))

    x, prior = torch.randn(6), torch.linspace(0.1, 0.9, 6)
    found = iw.evaluate.log_likelihood(FromPyro(model, guide), x, 3000, seed=1, context=(prior,))
    by_value = torch.stack([(1 - prior).log(), prior.log()]) + dist.Normal(torch.arange(2.0)[:, None], 1.0).log_prob(x)
    assert ((found.value - by_value.logsumexp(0)).abs() < 5 * found.std_error).all()

    programs = LinearGaussian()
    x = programs.x[:8]  # the guide has parameters per observation, and a journal looks at the first 8 alone
    auto = AutoNormal(programs.model)
    auto(x)
    journal = tmp_path / "evaluation.npz"
    source = FromPyro(programs.model, auto)
    assert list(source.module.parameters())
    first = iw.evaluate.log_likelihood(source, x, 30, seed=1, journal=journal)
    assert torch.equal(iw.evaluate.log_likelihood(source, x, 30, journal=journal).value, first.value)


def test_what_does_not_fit_is_refused() -> None:
    def model(x: Tensor) -> None:
        scale = pyro.sample("scale", dist.Gamma(1.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, scale), obs=x)

    def guide(_: Tensor) -> None:
        pyro.sample("scale", dist.Gamma(2.0, 1.0))

    with pytest.raises(ValueError, match="one element per observation, 5, got 1: declare independent"):
        iw.evaluate.log_likelihood(FromPyro(model, guide), torch.randn(5), 10)
    with pytest.raises(ValueError, match="latent site 'scale' of the model is missing in the guide"):
        iw.evaluate.log_likelihood(FromPyro(model, lambda x: None), torch.randn(5), 10)
    with pytest.raises(ValueError, match="mask must be None for a Pyro model"):
        iw.evaluate.log_likelihood(FromPyro(model, guide), torch.randn(5), 10, mask=torch.ones(5, dtype=torch.bool))
    with pytest.raises(TypeError, match="guide must be a Pyro program, a function or module, got str"):
        FromPyro(nn.Identity(), "guide")  # type: ignore[arg-type]
