"""Tests of custom priors and posteriors: densities, draws, and the gradient of every estimator by its definition."""

from __future__ import annotations

from collections.abc import Callable

import plain_gradients
import pytest
import torch
from distribution_encoders import AsDistribution, Wrapped, affine_flow, bent_flow
from linear_gaussian import exact_log_likelihood, linear_gaussian
from offered_settings import K, away_from_the_optimum, gradients
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
)

import iwae_fast as iw
from iwae_fast.bounds import ELBO, IWAE, PIWAE, Bound
from iwae_fast.models import MixturePrior, VampPrior
from iwae_fast.models.draw import Draw
from iwae_fast.objectives.estimators import ESTIMATORS
from iwae_fast.seeds import torch_seeded

Prior = Callable[[], nn.Module | Distribution]


def mixture() -> MixturePrior:
    prior = MixturePrior(3, 2).double()
    with torch.no_grad():
        prior.log_std -= 0.3 * torch.rand(3, 2)
        prior.logits += torch.randn(3)
    return prior


def vamp(size: int = 4) -> VampPrior:
    return VampPrior(torch.randn(3, size, dtype=torch.float64))


class Heavy(nn.Module):
    """A user's module that creates a new distribution in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.log_freedom = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))

    def log_prob(self, z: Tensor) -> Tensor:
        return StudentT(self.log_freedom.exp()).log_prob(z).sum(-1)

    def sample(self, num_samples: int) -> Tensor:
        return StudentT(self.log_freedom.exp()).sample((num_samples,))


def fixed() -> Distribution:
    return Normal(torch.tensor([0.5, -1.0]).double(), torch.tensor([0.7, 1.5]).double())


PRIORS: dict[str, Prior] = {"mixture": mixture, "vamp": vamp, "module": Heavy, "distribution": fixed}


def with_prior(name: str, prior: nn.Module | Distribution) -> tuple[iw.models.VAE, Tensor]:
    model, x = away_from_the_optimum(name)
    upper = [(layer.encoder, layer.prior) for layer in model.upper]
    return iw.models.VAE(model.encoder, model.decoder, "gaussian", upper=upper, prior=prior), x


@pytest.mark.parametrize("bound", [IWAE(), PIWAE(2)], ids=repr)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("layers", ["one layer", "two layers"])
def test_gradient_is_the_sum_over_samples(layers: str, prior: str, estimator: str, bound: Bound) -> None:
    """Compute it at once, in chunks, and from samples that are drawn again."""
    made = vamp(2) if (layers, prior) == ("two layers", "vamp") else PRIORS[prior]()
    model, x = with_prior(layers, made)
    kl_weight = 1.0 if ESTIMATORS[estimator].only_iwae else 0.7
    ways = [{}, {"chunk_size": 4}, {"tolerance": 0.0}]
    try:
        objectives = [iw.Objective(bound, estimator, num_samples=K, kl_weight=kl_weight, **way) for way in ways]
        objectives[0].check_model(model)
    except ValueError as error:
        message = str(error)
        assert estimator == "gdreg" or "is valid only for IWAE" in message or "differentiates" in message
        return
    expected = plain_gradients.gradients(bound, estimator, K, model, x, 1, kl_weight)
    for objective in objectives:
        torch.testing.assert_close(gradients(objective, model, x, 1), expected)


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
def test_doubly_reparameterized_gradient_is_unbiased(prior: str) -> None:
    """Compare its mean over 10,000 draws, with and without a budget, with that of the bound's gradient."""
    model, x = with_prior("one layer", PRIORS[prior]())
    draws = x[:1].expand(500, 4)
    for options in ({}, {"budget": 2}):
        differences = []
        for seed in range(20):
            ours, standard = (
                torch.cat([g.flatten() for g in gradients(objective, model, draws, seed)])
                for objective in (
                    iw.Objective(IWAE(), "dreg", num_samples=K, **options),
                    iw.Objective(IWAE(), num_samples=K),
                )
            )
            differences.append(ours - standard)
        stacked = torch.stack(differences)
        assert stacked.std(0).max() > 1e-6
        assert (stacked.mean(0) / (stacked.std(0) / 20**0.5 + 1e-9)).abs().max() < 5.5


def test_densities_are_the_distributions() -> None:
    z = torch.randn(3, 5, 2, dtype=torch.float64)
    prior = mixture()
    components = Independent(Normal(prior.mean, prior.log_std.exp()), 1)
    expected = MixtureSameFamily(Categorical(logits=prior.logits), components).log_prob(z)
    torch.testing.assert_close(prior.log_prob(z), expected)
    model, x = with_prior("one layer", vamp())
    mean, log_std = model.encoder(model.prior.pseudo_inputs)
    aggregated = MixtureSameFamily(Categorical(torch.ones(3).double()), Independent(Normal(mean, log_std.exp()), 1))
    z, terms = model.terms(x, model.encode(x), Draw(torch.tensor(1), K))
    torch.testing.assert_close(terms.log_prior, aggregated.log_prob(z))


def test_a_standard_normal_given_is_the_standard_normal() -> None:
    plain, x = away_from_the_optimum()
    given, _ = with_prior("one layer", Normal(torch.zeros(2).double(), torch.ones(2).double()))
    torch.testing.assert_close(given.log_weights(x, K, 1), plain.log_weights(x, K, 1))
    loss = iw.Objective(IWAE(), "dreg", num_samples=K)
    torch.testing.assert_close(gradients(loss, given, x, 1), gradients(loss, plain, x, 1))


def test_a_prior_changes_the_marginal_likelihood() -> None:
    """Compare with log N(x; b + W m, W V W^T + s^2 I)."""
    model, x = with_prior("one layer", fixed())
    decoder = model.decoder
    with torch.no_grad():
        model.encoder.log_std += 0.5
    covariance = decoder.weight @ torch.diag(fixed().variance) @ decoder.weight.T + torch.diag(
        (2 * decoder.log_std).exp()
    )
    exact = MultivariateNormal(decoder.bias + decoder.weight @ fixed().mean, covariance).log_prob(x).detach()
    found = iw.evaluate.log_likelihood(model, x, 20_000, seed=1)
    assert ((found.value - exact).abs() < 5 * found.std_error).all()


@pytest.mark.parametrize("prior", PRIORS)
def test_samples_are_of_the_prior(prior: str) -> None:
    model, _ = with_prior("one layer", PRIORS[prior]())
    before = torch.get_rng_state()
    z = model.prior_draws(40_000, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(model.prior_draws(5, 2), model.prior_draws(5, 2))
    assert model.sample(7, seed=1).shape == (7, 4)
    if prior == "vamp":
        mean, log_std = (part.detach() for part in model.encoder(model.prior.pseudo_inputs))
    elif prior == "mixture":
        mean, log_std = model.prior.mean.detach(), model.prior.log_std.detach()
    else:
        return
    weights = torch.softmax(model.prior.logits.detach(), 0) if prior == "mixture" else torch.full((3,), 1 / 3)
    first = (weights[:, None] * mean).sum(0)
    second = (weights[:, None] * (mean.square() + (2 * log_std).exp())).sum(0)
    error = 5 * ((second - first.square()) / 40_000).sqrt()
    assert ((z.mean(0) - first).abs() < error).all()
    torch.testing.assert_close(z.square().mean(0), second.double(), rtol=0.05, atol=0)


def test_learned_priors_of_dense_models_train() -> None:
    torch.manual_seed(0)
    x = (torch.rand(64, 16) < 0.2).float()
    for prior in (MixturePrior(4, 3), VampPrior(x[:8] + 0.1 * torch.rand(8, 16), low=0.0, high=1.0)):
        model = iw.models.DenseVAE(16, (6, 3) if isinstance(prior, MixturePrior) else (3,), prior=prior)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
        names = {name for name, _ in model.named_parameters() if name.startswith("prior.")}
        assert len(names) == (3 if isinstance(prior, MixturePrior) else 1)
        losses = []
        for step in range(20):
            optimizer.zero_grad()
            loss = iw.Objective(IWAE(), "dreg", num_samples=8, budget=3)(model, x, seed=step)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        assert all(p.grad is not None for p in model.prior.parameters())
        again = iw.models.DenseVAE(16, (6, 3) if isinstance(prior, MixturePrior) else (3,), prior=prior)
        again.load_state_dict(model.state_dict())
        assert model.sample(4, seed=1).shape == (4, 16)


@pytest.mark.parametrize("prior", [lambda: MixturePrior(3, 2), lambda: VampPrior(torch.rand(3, 16))])
def test_with_the_fused_last_layer_and_in_half_precision(prior: Callable[[], nn.Module]) -> None:
    model, x = iw.models.DenseVAE(16, (2,), (8,), prior=prior()), torch.rand(5, 16).round()
    objective = iw.Objective(IWAE(), num_samples=K)
    assert model.linear_decoder is not None
    in_one = gradients(objective, model, x, 1)
    in_parts = torch.autograd.grad(-IWAE()(model.log_weights(x, K, 1)).mean(), list(model.parameters()))
    torch.testing.assert_close(in_one, list(in_parts), rtol=1e-4, atol=1e-6)
    model.bfloat16()
    for estimator in ("reparameterized", "dreg"):
        objective = iw.Objective(IWAE(), estimator, num_samples=K)
        assert objective(model, x.bfloat16(), seed=1).dtype == torch.float32
        assert all(
            g.isfinite().all() and g.dtype == torch.bfloat16 for g in gradients(objective, model, x.bfloat16(), 1)
        )
    assert model.sample(3, seed=1).isfinite().all()


def test_learned_scale_has_the_decoders_gradient() -> None:
    """Compare the gradient of a shared scale with the sum of those of one scale per feature."""
    model, x = away_from_the_optimum()

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.affine = model.decoder

        def forward(self, z: Tensor) -> Tensor:
            return self.affine(z)[0]

    likelihood = iw.likelihoods.Gaussian("learned").double()
    with torch.no_grad():
        likelihood.log_std.fill_(float(model.decoder.log_std[0]))
    shared = iw.models.VAE(model.encoder, Mean(), likelihood)
    for estimator, options in (("reparameterized", {}), ("dreg", {"chunk_size": 4}), ("dreg", {"tolerance": 0.0})):
        objective = iw.Objective(IWAE(), estimator, num_samples=K, **options)
        by_feature = torch.autograd.grad(objective(model, x, seed=1), model.decoder.log_std)[0]
        (grad_all,) = torch.autograd.grad(objective(shared, x, seed=1), likelihood.log_std)
        torch.testing.assert_close(grad_all, by_feature.sum(0, keepdim=True))


# --- posteriors ---------------------------------------------------------------------------------------------------


def test_a_gaussian_object_is_its_parameters() -> None:
    model, x = away_from_the_optimum()
    for build in (lambda m, s: Normal(m, s.exp()), lambda m, s: Independent(Normal(m, s.exp()), 1)):
        other = iw.models.VAE(AsDistribution(model.encoder, build), model.decoder, "gaussian")
        objective = iw.Objective(IWAE(), "dreg", num_samples=K, budget=3)
        torch.testing.assert_close(gradients(objective, other, x, 1), gradients(objective, model, x, 1))


def test_the_exact_posterior_as_a_flow() -> None:
    model = linear_gaussian(data_dim=4, latent_dim=2)
    flow = iw.models.VAE(AsDistribution(model.encoder, affine_flow), model.decoder, "gaussian")
    x = torch.randn(3, 4, dtype=torch.float64)
    found = iw.evaluate.log_likelihood(flow, x, 30, chunk_size=7, seed=2)
    torch.testing.assert_close(found.value, exact_log_likelihood(model, x).detach())


def test_a_flow_draws_by_seed_and_sample() -> None:
    model, x = away_from_the_optimum()
    flow = iw.models.VAE(AsDistribution(model.encoder, bent_flow), model.decoder, "gaussian", prior=fixed())
    before = torch.get_rng_state()
    whole = flow.log_weights(x, 9, 1)
    parts = [flow.log_weights(x, count, 1, sample_offset=first) for first, count in ((0, 2), (2, 5), (7, 2))]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(flow.log_weights(x, 9, 2), whole)
    assert not torch.equal(flow.log_weights(x, 9, 1, observation_offset=3), whole)
    samples = torch.randint(9, (4, 3))
    posterior, draw = flow.encode(x), Draw(torch.tensor(1), 4, samples=samples)
    _, again = flow.terms(x, posterior, draw)
    torch.testing.assert_close(again.log_weights(), whole.gather(0, samples))


@pytest.mark.parametrize("prior", [None, "mixture"])
@pytest.mark.parametrize("bound", [ELBO(), IWAE(), PIWAE(2)], ids=repr)
def test_gradient_of_a_flow(bound: Bound, prior: str | None) -> None:
    """Compare with the bound's gradient by autograd, also in chunks and from samples that are drawn again."""
    plain, x = away_from_the_optimum()
    made = None if prior is None else mixture()
    model = iw.models.VAE(AsDistribution(plain.encoder, bent_flow), plain.decoder, "gaussian", prior=made)
    found = [
        gradients(iw.Objective(bound, num_samples=K, **options), model, x, 1)
        for options in ({}, {"chunk_size": 4}, {"tolerance": 0.0})
    ]
    if not isinstance(bound, PIWAE):
        parameters = list(model.parameters())
        value = bound(model.log_weights(x, K, 1)).mean()
        found.append(list(torch.autograd.grad(-value, parameters)))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_log_weights_of_a_flow_are_the_densities_written_out() -> None:
    plain, x = away_from_the_optimum()
    model = iw.models.VAE(AsDistribution(plain.encoder, bent_flow), plain.decoder, "gaussian")
    z, terms = model.terms(x, model.encode(x), Draw(torch.tensor(1), K))
    assert z.abs().max() < 2
    expected = (
        plain_gradients.normal(x, plain.decoder(z))
        + Normal(0.0, 1.0).log_prob(z).sum(-1)
        - bent_flow(*plain.encoder(x)).log_prob(z).sum(-1)
    )
    torch.testing.assert_close(terms.log_weights(), expected)


def test_binary_latents_as_distributions() -> None:
    """Refuse pathwise estimators for latents without a pathwise gradient; VIMCO trains."""
    torch.manual_seed(0)
    x = (torch.rand(50, 8) < 0.2).float()
    encoder = Wrapped(nn.Linear(8, 3), lambda logits: Independent(Bernoulli(logits=logits), 1))
    model = iw.models.VAE(encoder, nn.Linear(3, 8), prior=Bernoulli(probs=torch.full((3,), 0.4)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for step in range(30):
        optimizer.zero_grad()
        loss = iw.Objective(IWAE(), "vimco", num_samples=5)(model, x, seed=step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    assert iw.evaluate.log_likelihood(model, x, 20).value.isfinite().all()
    for estimator, message in (("reparameterized", "no gradient flows through draws"), ("dreg", "held? fixed|holds")):
        with pytest.raises(ValueError, match=message):
            iw.Objective(IWAE(), estimator, num_samples=5)(model, x)


def test_seeded_generators() -> None:
    seed = torch.tensor(2**62)
    draws = []
    for indices in ((1, 2), (1, 2), (2, 1), ()):
        with torch_seeded(seed, *indices):
            draws.append(torch.randn(4))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[3])


def flow_model(**options: object) -> tuple[iw.models.VAE, Tensor]:
    plain, x = away_from_the_optimum()
    return iw.models.VAE(AsDistribution(plain.encoder, bent_flow), plain.decoder, "gaussian", **options), x


class Summed(Heavy):
    def log_prob(self, z: Tensor) -> Tensor:
        return z.sum()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: with_prior("one layer", 3), TypeError, "prior must be None, a torch.distributions object"),
        (lambda: with_prior("one layer", nn.Linear(2, 2)), TypeError, "prior must be .*, got Linear"),
        (lambda: with_prior("one layer", Normal(0.0, 1.0)), ValueError, r"over z of shape \(Z,\), got shape \(\)"),
        (
            lambda: with_prior("one layer", Normal(nn.Parameter(torch.zeros(2)), torch.ones(2))),
            ValueError,
            "require a gradient, but an optimizer",
        ),
        (
            lambda: (lambda model, x: model.log_weights(x, 2))(*with_prior("one layer", Summed())),
            ValueError,
            r"log_prob must return \(k, B\) = \(2, 3\) for z \(2, 3, 2\), got \(\)",
        ),
        (lambda: VampPrior(torch.zeros(3)), ValueError, r"pseudo_inputs must be inputs of the encoder, \(K, ...\)"),
        (lambda: VampPrior([0.0]), TypeError, "pseudo_inputs must be a torch.Tensor"),
        (lambda: MixturePrior(0, 2), ValueError, "num_components must be at least 1"),
        (
            lambda: (lambda model, x: iw.Objective(IWAE(), "stl", 5)(model, x))(*flow_model()),
            ValueError,
            "is not possible for the encoder's TransformedDistribution",
        ),
        (
            lambda: (lambda model, x: model.log_weights(x, 2))(*flow_model(prior=vamp())),
            ValueError,
            "VampPrior needs a Gaussian encoder",
        ),
        (lambda: (lambda model, x: model.reconstruct(x))(*flow_model()), ValueError, "does not have a mean"),
        (
            lambda: (lambda model, x: iw.Objective(ELBO(), num_samples=2, free_bits=0.1)(model, x))(
                *with_prior("one layer", mixture())
            ),
            ValueError,
            "no closed form",
        ),
        (
            lambda: (lambda model, x: iw.Objective(IWAE(), "gdreg", 5)(model, x))(*with_prior("one layer", mixture())),
            ValueError,
            "requires learned conditional priors between layers",
        ),
    ],
)
def test_bad_arguments(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
