"""Tests of training to a known optimum: the linear-Gaussian model's maximum likelihood is that of probabilistic PCA.

With p(z) = N(0, I) and p(x | z) = N(W z + b, s^2 I) the maximum follows from the eigenvalues of the data's covariance
(Tipping & Bishop 1999), and the columns of W may be orthogonal there. The posterior is then diagonal, a linear encoder
can represent it, and every bound is tight: training must reach the same value for every bound and estimator.
"""

from __future__ import annotations

import math

import pytest
import torch
from linear_gaussian import Affine, exact_log_likelihood
from torch import Tensor

import iwae_fast as iw
from iwae_fast.bounds import CIWAE, ELBO, IWAE, MIWAE, PIWAE, VRIWAE

N, D, Z = 200, 6, 2
K = 4
STEPS = 400
NEAR = 1e-2
"""Nats from the maximum, mean over the observations, within which training must come ..."""
FAR = 10.0
"""... and beyond which it begins."""


def observations() -> Tensor:
    """Return data (N, D) with two dominant directions and a nonzero mean."""
    basis = torch.linalg.qr(torch.randn(D, Z, dtype=torch.float64)).Q
    scales = torch.tensor([3.0, 1.5], dtype=torch.float64)
    z, noise = torch.randn(N, Z, dtype=torch.float64), torch.randn(N, D, dtype=torch.float64)
    return torch.linspace(-5.0, 5.0, D, dtype=torch.float64) + z @ (basis * scales).T + noise


def maximum_log_likelihood(x: Tensor) -> float:
    """Compute the maximum, as a mean over the observations: W W^T + s^2 I then has the Z largest eigenvalues of their
    covariance, and s^2, the mean of the others, in place of each of these."""
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    log_determinant = eigenvalues[:Z].log().sum() + (D - Z) * eigenvalues[Z:].mean().log()
    return -0.5 * (D * math.log(2 * math.pi) + log_determinant.item() + D)


def random_model() -> iw.models.VAE:
    """Return a model with one s for all features, and one encoder scale per dimension for all observations."""

    def affine(inputs: int, outputs: int, log_std: Tensor) -> Affine:
        weight, bias = torch.randn(outputs, inputs), torch.randn(outputs)
        return Affine(0.5 * weight.double(), bias.double(), log_std.double())

    encoder, decoder = affine(D, Z, torch.zeros(Z)), affine(Z, D, torch.full((1,), 0.5))
    return iw.models.VAE(encoder, decoder, "gaussian", latent_dim=Z)


def train(objective: iw.Objective, model: iw.models.VAE, x: Tensor, batch_size: int) -> None:
    """Train by Adam with a learning rate that falls to zero, which averages the noise out."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3, betas=(0.9, 0.95))
    decay = torch.optim.lr_scheduler.PolynomialLR(optimizer, STEPS, power=2.0)
    for step in range(STEPS):
        optimizer.zero_grad()
        objective(model, x[torch.randperm(N)[:batch_size]], seed=step).backward()
        optimizer.step()
        decay.step()


@torch.no_grad()
def distances(objective: iw.Objective, model: iw.models.VAE, x: Tensor) -> tuple[float, float]:
    """Return how far log-likelihood and bound are below the maximum, as means over observations."""
    maximum = maximum_log_likelihood(x)
    bound = -objective(model, x.repeat(50, 1), seed=STEPS)
    return maximum - exact_log_likelihood(model, x).mean().item(), maximum - bound.item()


def assert_reaches_the_maximum(objective: iw.Objective, batch_size: int = N) -> None:
    x, model = observations(), random_model()
    assert min(distances(objective, model, x)) > FAR
    train(objective, model, x, batch_size)
    log_likelihood, bound = distances(objective, model, x)
    assert 0.0 <= log_likelihood < NEAR
    assert abs(bound) < NEAR


@pytest.mark.parametrize(
    ("bound", "estimator"),
    [
        (ELBO(), "reparameterized"),
        (ELBO(), "stl"),
        (IWAE(), "reparameterized"),
        (IWAE(), "dreg"),
        (IWAE(), "rws"),
        (VRIWAE(0.0), "stl"),
        (VRIWAE(0.3), "dreg"),
        (VRIWAE(0.9), "reparameterized"),
        (MIWAE(2), "dreg"),
        (CIWAE(0.5), "reparameterized"),
        (PIWAE(2), "dreg"),
    ],
    ids=str,
)
def test_each_bound_reaches_the_maximum(bound: iw.bounds.Bound, estimator: str) -> None:
    assert_reaches_the_maximum(iw.Objective(bound, estimator, num_samples=K))


def test_a_budget_reaches_the_maximum() -> None:
    assert_reaches_the_maximum(iw.Objective(IWAE(), "dreg", num_samples=2 * K, budget=3))


def test_minibatches_reach_the_maximum() -> None:
    assert_reaches_the_maximum(iw.Objective(IWAE(), "dreg", num_samples=K), batch_size=N // 2)
