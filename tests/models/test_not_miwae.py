"""Tests of models of missingness against quadrature, and of their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from linear_gaussian import Affine
from torch import Tensor, nn

import iwae_fast as iw
from iwae_fast.models import GeneralMasking, NotMIWAE, SelfMasking

NAN = math.nan


def model(mechanism: nn.Module) -> NotMIWAE:
    """Return a model of two features with one latent, whose encoder returns p(z)."""
    weight, bias = torch.tensor([[1.2], [-0.7]]).double(), torch.tensor([0.3, 0.1]).double()
    decoder = Affine(weight, bias, torch.tensor([-0.4, -0.1]).double())
    encoder = Affine(torch.zeros(1, 2).double(), torch.zeros(1).double(), torch.zeros(1).double())
    return NotMIWAE(encoder, decoder, mechanism.double())


def mechanisms() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    learned, known, general = SelfMasking(2), SelfMasking(2, "high"), GeneralMasking(2, (4,))
    with torch.no_grad():
        learned.slope.copy_(torch.tensor([1.5, -2.0]))
        for each in (learned, known):
            each.intercept.copy_(torch.tensor([0.5, 0.2]))
        for parameter in general.parameters():
            parameter += 0.7 * torch.randn_like(parameter)
    return {"learned sign": learned, "known sign": known, "general": general}


MECHANISMS = mechanisms()
X = torch.tensor([[0.8, NAN], [NAN, -0.5], [0.2, 0.4], [NAN, NAN]]).double()


def by_quadrature(joint: NotMIWAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p(x_observed, mask) and E[x | x_observed, mask] of an observation by a grid of z and of both x."""
    z = torch.linspace(-6, 6, 61).double()
    grid = torch.linspace(-7, 7, 141).double()
    axes = [value[None] if not value.isnan() else grid for value in x]
    first, second = torch.meshgrid(*axes, indexing="ij")
    values = torch.stack([first, second], -1)  # (M, N, 2)
    mean, log_std = joint.decoder(z[:, None])
    normal = torch.distributions.Normal(mean[:, None, None], log_std.exp()[:, None, None])
    density = normal.log_prob(values).sum(-1)  # (61, M, N)
    prior = torch.distributions.Normal(0, 1).log_prob(z)
    logits = joint.mechanism(values)
    seen = ~x.isnan()
    masked = torch.where(seen, nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)).sum(-1)
    whole = torch.logsumexp(density + prior[:, None, None] + math.log(0.2), 0) + masked
    width = 0.1 ** int(x.isnan().sum())
    total = torch.logsumexp(whole.flatten(), 0)
    mean = (torch.exp(whole - total)[..., None] * values).sum((0, 1))
    return total + math.log(width), mean


@pytest.mark.parametrize("name", MECHANISMS)
def test_likelihood_and_imputation_are_those_of_quadrature(name: str) -> None:
    joint = model(MECHANISMS[name])
    found = joint.impute(X, num_samples=10_000, num_draws=100, seed=4)
    estimate = iw.evaluate.log_likelihood(joint, X, 10_000, seed=4, mask=~X.isnan())
    torch.testing.assert_close(found.log_likelihood.value, estimate.value, rtol=1e-9, atol=1e-9)
    for row, x in enumerate(X):
        exact, mean = by_quadrature(joint, x)
        assert abs(estimate.value[row] - exact).item() < 5 * estimate.std_error[row].item() + 1e-6
        error = 5 * 1.5 / estimate.ess[row].sqrt().item()
        assert (found.mean[row] - mean).abs().max().item() < error
        assert (found.draws[:, row].mean(0) - mean).abs().max().item() < 5 * 1.5 / math.sqrt(100)
    assert torch.equal(found.mean[2], X[2])


def test_gradients() -> None:
    """Compare the gradient of the loss at fixed noise with numerical ones, and reach every parameter."""
    torch.manual_seed(0)
    dense = iw.models.DenseVAE(3, (2,), ((4,),), likelihood="gaussian-learned").double()
    joint = NotMIWAE.of(dense, SelfMasking(3).double())
    x = torch.randn(4, 3).double()
    mask = torch.rand(4, 3) < 0.5
    objective = iw.Objective(iw.bounds.IWAE(), num_samples=3)
    parameters = [joint.mechanism.slope, joint.likelihood.log_std, joint.decoder.output.weight]
    assert torch.autograd.gradcheck(
        lambda *_: objective(joint, x, mask=mask, seed=1), parameters, atol=1e-6, fast_mode=False
    )
    for estimator, budget in (("dreg", None), ("stl", 2), ("reparameterized", 2)):
        joint.zero_grad()
        iw.Objective(iw.bounds.IWAE(), estimator, num_samples=4, budget=budget)(joint, x, mask=mask).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in joint.parameters())


def test_without_a_mask_all_is_observed() -> None:
    joint = model(MECHANISMS["learned sign"])
    x = X[2:3]
    plain = iw.models.VAE(joint.encoder, joint.decoder, "gaussian").log_weights(x, 5, 0)
    observed = nn.functional.logsigmoid(joint.mechanism(x)).sum(-1)
    torch.testing.assert_close(joint.log_weights(x, 5, 0), plain + observed)
    torch.testing.assert_close(joint.log_weights(x, 5, 0), joint.log_weights(x, 5, 0, mask=~x.isnan()))


def test_training_recovers_what_was_censored() -> None:
    """Train on values of which the high ones of one feature are missing: the learned mechanism raises the imputed mean,
    and knows that high values go missing."""
    torch.manual_seed(0)
    z = torch.randn(1500, 1)
    x = z @ torch.tensor([[1.0, 1.0, -1.0]]) + 0.3 * torch.randn(1500, 3)
    mask = torch.ones(1500, 3, dtype=torch.bool)
    mask[:, 0] = x[:, 0] < 0.5
    error = {}
    for name in ("miwae", "not-miwae"):
        torch.manual_seed(1)
        trained = iw.models.DenseVAE(3, (1,), ((16,),), likelihood="gaussian-learned")
        if name == "not-miwae":
            trained = NotMIWAE.of(trained, SelfMasking(3))
        objective = iw.Objective(iw.bounds.IWAE(), num_samples=10)
        optimizer = torch.optim.Adam(trained.parameters(), lr=0.02)
        for step in range(200):
            batch = torch.randint(1500, (100,))
            optimizer.zero_grad()
            objective(trained, x[batch], mask=mask[batch], seed=step).backward()
            optimizer.step()
        mean = trained.impute(x, mask, 200, seed=0).mean
        error[name] = (mean - x)[~mask].square().mean().sqrt().item()
    assert trained.mechanism.slope[0].item() < -1.0
    assert error["not-miwae"] < error["miwae"]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="direction must be 'high', 'low' or None, got 'up'"):
        SelfMasking(3, "up")
    with pytest.raises(ValueError, match="data_dim must be at least 1, got 0"):
        GeneralMasking(0)
    counts = NotMIWAE.of(iw.models.DenseVAE(3, (2,), ((4,),), likelihood="negative-binomial"), SelfMasking(3))
    with pytest.raises(ValueError, match="'negative-binomial' does not have reparameterized draws"):
        counts.log_weights(torch.ones(2, 3), 2)
    with pytest.raises(ValueError, match="no closed form: use log_weights"):
        counts.log_likelihood(torch.ones(2, 3), torch.zeros(1, 2, 2))
