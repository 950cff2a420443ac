"""Tests of models with several stochastic layers and with binary latents, except for their gradients."""

from __future__ import annotations

import pytest
import torch
from linear_gaussian import exact_log_likelihood, two_layer_linear_gaussian
from offered_settings import K, binary_latents, three_layers
from plain_gradients import draw, log_likelihood, log_prior, log_q, noises
from torch import nn

import iwae_fast as iw


@pytest.mark.parametrize("build", [two_layer_linear_gaussian, three_layers, binary_latents])
def test_log_weights_are_the_densities_written_out(build: object) -> None:
    model, x = build(), (torch.rand(5, 4) < 0.5).double()
    eps = noises(model, x, K, 9)
    expected = []
    for i in range(K):
        zs = draw(model, x, [e[i] for e in eps])
        expected.append(log_likelihood(model, x, zs) + log_prior(model, zs) - log_q(model, x, zs))
    torch.testing.assert_close(model.log_weights(x, K, 9), torch.stack(expected))


def test_exact_posterior_of_two_layers() -> None:
    model, x = two_layer_linear_gaussian(), torch.randn(6, 4, dtype=torch.float64)
    exact = exact_log_likelihood(model, x).detach()
    torch.testing.assert_close(model.log_weights(x, 3, 1).detach(), exact.expand(3, 6))
    found = iw.evaluate.log_likelihood(model, x, 30, chunk_size=7, seed=2)
    torch.testing.assert_close(found.value, exact)
    torch.testing.assert_close(found.ess, torch.full((6,), 30.0, dtype=torch.float64))


@pytest.mark.parametrize("build", [three_layers, binary_latents])
def test_chunks_and_shards_draw_what_the_whole_draws(build: object) -> None:
    model, x = build(), (torch.rand(5, 4) < 0.5).double()
    whole = model.log_weights(x, K, 9)
    parts = [model.log_weights(x, 2, 9, sample_offset=first) for first in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts), whole)
    torch.testing.assert_close(model.log_weights(x[2:], K, 9, observation_offset=2), whole[:, 2:])


def test_samples_have_the_moments_of_the_prior() -> None:
    model = two_layer_linear_gaussian()
    z = model.prior_draws(50_000, 3)
    prior = model.upper[0].prior
    mean, variance = prior.bias.detach(), prior.weight.diag().square() + (2 * prior.log_std).exp()
    assert ((z.mean(0) - mean).abs() < 5 * (variance / 50_000).sqrt()).all()
    torch.testing.assert_close(z.var(0).double(), variance.detach(), rtol=0.05, atol=0)
    assert model.sample(7, seed=1).shape == (7, 4)
    assert torch.equal(model.sample(7, seed=1), model.sample(7, seed=1))


def test_binary_latents() -> None:
    model = binary_latents()
    z = model.prior_draws(50_000, 3)
    assert set(z.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(z.mean(0), model.prior_logits.sigmoid().detach(), rtol=0, atol=0.02)
    x = torch.rand(6, 4).double()
    torch.testing.assert_close(model.sample(7, 3), model.decoder(model.prior_draws(7, 3)).sigmoid().detach())
    torch.testing.assert_close(model.reconstruct(x), model.decoder(model.encoder(x).sigmoid()).sigmoid().detach())
    assert set(model.sample_implicit_posterior(x, 20, 1).unique().tolist()) == {0.0, 1.0}
    evaluated = iw.evaluate.log_likelihood(model, (x > 0.5).double(), 4000, seed=1)
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
    joint = [log_likelihood(model, (x > 0.5).double(), [z[None]]) + log_prior(model, [z[None]]) for z in states]
    exact = torch.logsumexp(torch.stack([j.expand(6) for j in joint]), 0).detach()
    assert ((evaluated.value - exact).abs() < 5 * evaluated.std_error).all()


def test_binary_latents_of_half_precision_are_drawn_from_their_density() -> None:
    """Test a probability of 0.9994, which bfloat16 rounds to 1."""
    model = iw.models.BernoulliVAE(nn.Linear(4, 1), nn.Linear(1, 4), latent_dim=1)
    with torch.no_grad():
        model.encoder.weight.zero_()
        model.encoder.bias.fill_(7.5)
    model.bfloat16()
    draws = model.sample_implicit_posterior(torch.zeros(100_000, 4).bfloat16(), 1, 1)
    assert 30 < (draws == 0).sum() < 85  # 55 on average


def test_implicit_posterior_of_two_layers() -> None:
    """Compare the implicit posterior of a wider encoder, with many samples, with the first layer's exact one."""
    model, x = two_layer_linear_gaussian(), torch.randn(1, 4, dtype=torch.float64)
    mean, log_std = (t[0].detach().clone() for t in model.encode(x))
    with torch.no_grad():
        model.encoder.log_std += 0.5
    draws = model.sample_implicit_posterior(x.expand(10_000, 4), 200, seed=1)
    assert ((draws.mean(0) - mean).abs() < 0.06 * log_std.exp()).all()
    torch.testing.assert_close(draws.std(0), log_std.exp(), rtol=0.06, atol=0)


def test_paper_network_of_two_layers() -> None:
    model = iw.models.DenseVAE(784, (100, 50))
    sizes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.dim() == 2}
    assert list(sizes.values()) == [
        *((200, 784), (200, 200), (100, 200), (100, 200)),
        *((200, 100), (200, 200), (784, 200)),
        *((100, 100), (100, 100), (50, 100), (50, 100)),
        *((100, 50), (100, 100), (100, 100), (100, 100)),
    ]
    loss = iw.Objective(iw.bounds.IWAE(), "gdreg", num_samples=5, budget=2)(model, torch.rand(3, 784))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_training_two_layers_learns() -> None:
    torch.manual_seed(0)
    model, x = iw.models.DenseVAE(16, (6, 3), ((32,), (16,))), (torch.rand(64, 16) < 0.2).float()
    for estimator in ("gdreg", "dreg", "reparameterized"):
        objective = iw.Objective(iw.bounds.IWAE(), estimator, num_samples=10)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        losses = []
        for step in range(40):
            optimizer.zero_grad()
            loss = objective(model, x, seed=step)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]


@pytest.mark.parametrize("estimator", ["reparameterized", "dreg", "gdreg"])
def test_compiled_modules(estimator: str) -> None:
    """Compile the networks alone; the objective calls the compiled modules."""
    torch._dynamo.reset()
    model, x = iw.models.DenseVAE(8, (4, 2), ((8,), (4,))), torch.rand(3, 8)
    objective = iw.Objective(iw.bounds.IWAE(), estimator, num_samples=4)
    objective(model, x, seed=1).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for module in (model.encoder, model.decoder, model.upper[0].encoder, model.upper[0].prior):
        module.compile(backend="aot_eager")
    objective(model, x, seed=1).backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], expected)


def test_networks_that_do_not_fit() -> None:
    x = torch.rand(1, 4)
    with pytest.raises(ValueError, match="layer sizes must be at least 1"):
        iw.models.DenseVAE(16, ())
    with pytest.raises(ValueError, match="layer sizes must be at least 1"):
        iw.models.DenseVAE(16, (4, 0), ((8,), (8,)))
    binary = iw.models.BernoulliVAE(nn.Linear(4, 3), nn.Identity(), latent_dim=2)
    with pytest.raises(ValueError, match=r"logits must be \(B, 2\), got \(1, 3\)"):
        binary.encode(x)
    binary = iw.models.BernoulliVAE(nn.LSTM(4, 3), nn.Identity(), latent_dim=2)
    with pytest.raises(TypeError, match="must return logits, a tensor, got tuple"):
        binary.encode(x)
    upper = nn.Linear(2, 2), nn.Linear(2, 2)
    model = iw.models.VAE(iw.models.dense.GaussianNetwork(4, (3,), 2), nn.Linear(2, 4), upper=[upper])
    with pytest.raises(TypeError, match=r"an upper layer must return \(mean, log_std\), got Tensor"):
        model.log_weights(x, 2)
