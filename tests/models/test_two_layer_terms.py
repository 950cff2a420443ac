"""Tests of the five terms of a two-layer log-weight, each against its formula in NumPy: matrix products of the named
parameters, tanh, and explicit densities. Only the noise is taken from the package."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import iwae_fast as iw
from iwae_fast.models import posteriors, vae
from iwae_fast.models.draw import Draw
from iwae_fast.ops.samples import seed_tensor

B, D, Z1, Z2 = 6, 12, 5, 3
SEED = 4

Array = np.ndarray


def random_model() -> iw.models.DenseVAE:
    """Return a model with two hidden layers per network, as in the paper, and without zero parameters."""
    model = iw.models.DenseVAE(D, (Z1, Z2), ((16, 16), (14, 14))).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter))
    return model


class ByHand:
    """A model written out: its log-weights (k, B) from observations and noise, with the same parameters."""

    def __init__(self, parameters: dict[str, Array]) -> None:
        self.parameters = parameters

    def terms(self, x: Array, eps1: Array, eps2: Array) -> dict[str, Array]:
        mean1, log_std1 = self.gaussian("encoder", x)
        z1 = mean1 + np.exp(log_std1) * eps1
        mean2, log_std2 = self.gaussian("upper.0.encoder", z1)
        z2 = mean2 + np.exp(log_std2) * eps2
        logits = self.linear("decoder.output", self.hidden("decoder", z1))
        return {
            "log p(x | z1)": log_bernoulli(x, logits),
            "log p(z1 | z2)": log_normal(z1, *self.gaussian("upper.0.prior", z2)),
            "log p(z2)": log_normal(z2, 0.0, np.zeros(Z2)),
            "log q(z1 | x)": log_normal(z1, mean1, log_std1),
            "log q(z2 | z1)": log_normal(z2, mean2, log_std2),
        }

    def gaussian(self, network: str, value: Array) -> tuple[Array, Array]:
        hidden = self.hidden(network, value)
        return self.linear(f"{network}.mean", hidden), self.linear(f"{network}.log_std", hidden)

    def hidden(self, network: str, value: Array) -> Array:
        first = np.tanh(self.linear(f"{network}.hidden.0", value))
        return np.tanh(self.linear(f"{network}.hidden.1", first))

    def linear(self, layer: str, value: Array) -> Array:
        return value @ self.parameters[f"{layer}.weight"].T + self.parameters[f"{layer}.bias"]


def log_normal(z: Array, mean: Array | float, log_std: Array) -> Array:
    variance = np.exp(log_std) ** 2
    return (-((z - mean) ** 2) / (2 * variance) - 0.5 * np.log(2 * np.pi * variance)).sum(-1)


def log_bernoulli(x: Array, logits: Array) -> Array:
    probability = 1 / (1 + np.exp(-logits))
    return (x * np.log(probability) + (1 - x) * np.log(1 - probability)).sum(-1)


def package_terms(model: iw.models.DenseVAE, x: Tensor, k: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Return the terms that the package adds up. It returns only the sum log p(z2) - log q, so the calls of its
    densities are recorded."""
    overheard: list[Tensor] = []

    def overhear(density: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*arguments: object, **options: object) -> Tensor:
            overheard.append(density(*arguments, **options))
            return overheard[-1]

        return call

    for module, name in ((posteriors, "gaussian_log_prob"), (vae, "standard_gaussian_log_prob")):
        monkeypatch.setattr(module, name, overhear(getattr(module, name)))
    _, terms = model.terms(x, model.encode(x), Draw(seed_tensor(SEED, x.device), k))
    q1, q2, p1, p2 = overheard
    assert torch.equal(terms.log_prior, p1)
    torch.testing.assert_close(terms.log_ratio, p2 - q1 - q2)
    return {
        "log p(x | z1)": terms.log_likelihood,
        "log p(z1 | z2)": terms.log_prior,
        "log p(z2)": p2,
        "log q(z1 | x)": q1,
        "log q(z2 | z1)": q2,
    }


@pytest.mark.parametrize("k", [3, 400])  # with many samples a layer and its tanh are one kernel
def test_each_term_is_its_formula(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = random_model(), (torch.rand(B, D) < 0.5).double()
    noise = [
        iw.standard_normal((k, B, size), SEED, stream=layer, dtype=torch.float64).numpy()
        for layer, size in enumerate((Z1, Z2))
    ]
    by_hand = ByHand({name: tensor.numpy() for name, tensor in model.state_dict().items()})
    expected = {name: torch.from_numpy(term) for name, term in by_hand.terms(x.numpy(), *noise).items()}
    found = package_terms(model, x, k, monkeypatch)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-11)

    p_x, p1, p2, q1, q2 = expected.values()
    log_weights = p_x + p1 + p2 - q1 - q2
    torch.testing.assert_close(model.log_weights(x, k, SEED), log_weights, rtol=1e-12, atol=1e-11)
    bound = log_weights.exp().mean(0).log().mean()
    loss = iw.Objective(iw.bounds.IWAE(), num_samples=k)(model, x, seed=SEED)
    torch.testing.assert_close(-loss, bound, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("log_std", [-1000.0, -100.0, -2.0, 0.0, 50.0])
def test_reparameterizing_by_the_noise_of_the_prior_gives_z_back_at_every_scale(log_std: float) -> None:
    """Check the derivatives too, those of mean + exp(log_std) eps: 1 and z - mean."""
    z, mean = torch.tensor([0.3, 1.0]), torch.tensor([0.3, -0.5], requires_grad=True)
    scale = torch.full((2,), log_std, requires_grad=True)
    again = vae._by_prior_noise(z, mean, scale)
    torch.testing.assert_close(again, z)
    grad_mean, grad_scale = torch.autograd.grad(again.sum(), (mean, scale))
    assert (grad_mean == 1.0).all()
    torch.testing.assert_close(grad_scale, (z - mean).detach())
