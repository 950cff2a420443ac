"""Gradient estimators: against their definitions sample by sample, each other on average, and the exact oracle."""

from __future__ import annotations

import pytest
import torch
from linear_gaussian import linear_gaussian
from torch import Tensor

import iwae_fast as iw
from iwae_fast.bounds import CIWAE, CUBO, ELBO, IWAE, JVI, MIWAE, PIWAE, TVO, VRIWAE, Bound
from iwae_fast.estimators import ESTIMATORS

K = 6
BOUNDS = [
    ELBO(),
    IWAE(),
    VRIWAE(0.4),
    VRIWAE(1.5),
    MIWAE(2),
    PIWAE(2),
    CIWAE(0.3),
    TVO((0.0, 0.3)),
    JVI(1),
    JVI(2),
]
CELLS = [
    (bound, name)
    for bound in BOUNDS
    for name, estimator in ESTIMATORS.items()
    if not estimator.only_iwae or type(bound) is IWAE
]
cells = pytest.mark.parametrize(("bound", "estimator"), CELLS, ids=lambda part: repr(part).strip("'"))
UNBIASED = ("reparameterized", "dreg")


def away_from_the_optimum() -> tuple[iw.models.VAE, Tensor]:
    torch.manual_seed(5)
    model, x = linear_gaussian(data_dim=4, latent_dim=2), torch.randn(3, 4, dtype=torch.float64)
    with torch.no_grad():
        model.encoder.bias += 0.5
        model.encoder.log_std += 0.3
    return model, x


def gradients(objective: iw.Objective, model: iw.models.VAE, x: Tensor, seed: int) -> list[Tensor]:
    return list(torch.autograd.grad(objective(model, x, seed=seed), list(model.parameters())))


def plain(bound: Bound, estimator: str, model: iw.models.VAE, x: Tensor, seed: int) -> list[Tensor]:
    """The gradient of the loss, one sample after the other, by torch's own densities."""
    normal = torch.distributions.Normal
    phi, theta = list(model.encoder.parameters()), list(model.decoder.parameters())
    eps = iw.standard_normal((K, *model.encode(x)[0].shape), seed, dtype=torch.float64)

    def log_q(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        return normal(mean, log_std.exp()).log_prob(z).sum(-1)

    def log_p(z: Tensor) -> Tensor:
        mean, log_std = model.decoder(z)
        return normal(mean, log_std.exp()).log_prob(x).sum(-1) + normal(0.0, 1.0).log_prob(z).sum(-1)

    mean, log_std = model.encode(x)
    z = mean + log_std.exp() * eps
    log_weights = (log_p(z) - log_q(z, mean, log_std)).detach()
    decoder = bound.coefficients(log_weights)
    encoder = bound.for_encoder.coefficients(log_weights)
    w = torch.softmax(log_weights, 0)
    path, score = {
        "reparameterized": (encoder.g, -encoder.g),
        "stl": (encoder.g, 0 * w),
        "dreg": (encoder.g - encoder.D, 0 * w),
        "aisle-kl": (w, 0 * w),
        "aisle-chi2": (2 * K * w**2, 0 * w),
        "rws": (0 * w, w),
        "rws-dreg": (w - w**2, 0 * w),
    }[estimator]
    totals = [torch.zeros_like(p) for p in (*phi, *theta)]
    for i in range(K):
        for b in range(len(x)):
            mean, log_std = model.encode(x)
            z = mean + log_std.exp() * eps[i]
            of_path = (log_p(z) - log_q(z, mean.detach(), log_std.detach()))[b]
            of_score = log_q(z.detach(), mean, log_std)[b]
            of_decoder = log_p(z.detach())[b]
            encoders = torch.autograd.grad(path[i, b] * of_path + score[i, b] * of_score, phi)
            decoders = torch.autograd.grad(decoder.g[i, b] * of_decoder, theta)
            for total, part in zip(totals, (*encoders, *decoders), strict=True):
                total -= part / len(x)
    return totals


@cells
def test_gradient_is_the_sum_over_samples_and_the_value_the_bound(bound: Bound, estimator: str) -> None:
    model, x = away_from_the_optimum()
    objective = iw.Objective(bound, estimator, num_samples=K)
    torch.testing.assert_close(gradients(objective, model, x, 1), plain(bound, estimator, model, x, 1))
    torch.testing.assert_close(objective(model, x, seed=1), -bound(model.log_weights(x, K, 1)).mean())
    torch.testing.assert_close(objective.last.value, bound(model.log_weights(x, K, 1)).detach())


@cells
def test_exact_posterior(bound: Bound, estimator: str) -> None:
    """All weights are equal: the path gradients vanish sample by sample, and the standard one does not."""
    model, x = linear_gaussian(data_dim=4, latent_dim=2), torch.randn(3, 4, dtype=torch.float64)
    objective = iw.Objective(bound, estimator, num_samples=K)
    grads = dict(zip((n for n, _ in model.named_parameters()), gradients(objective, model, x, 1), strict=True))
    encoder = torch.cat([g.flatten() for name, g in grads.items() if name.startswith("encoder")])
    if estimator in ("reparameterized", "rws"):
        assert encoder.abs().max() > 1e-3
    else:
        assert encoder.abs().max() < 1e-12
    assert max(g.abs().max() for name, g in grads.items() if name.startswith("decoder")) > 1e-3


@pytest.mark.parametrize("bound", [b for b in BOUNDS if b.for_encoder is b], ids=repr)
def test_doubly_reparameterized_gradient_is_unbiased(bound: Bound) -> None:
    """Its mean over 60,000 draws is that of the gradient of the bound: 5 standard errors of the paired difference."""
    model, x = away_from_the_optimum()
    draws, batches = x[:1].expand(1000, 4), 60
    differences = []
    for seed in range(batches):
        ours, standard = (
            torch.cat([g.flatten() for g in gradients(iw.Objective(bound, name, num_samples=K), model, draws, seed)])
            for name in ("dreg", "reparameterized")
        )
        differences.append(ours - standard)
    stacked = torch.stack(differences)
    error = stacked.std(0) / batches**0.5
    assert (stacked.mean(0).abs() < 5 * error + 1e-9).all()
    assert error.max() > 0


def test_sticking_the_landing_is_biased_for_iwae() -> None:
    """The same test tells it from an unbiased one."""
    model, x = away_from_the_optimum()
    draws = x[:1].expand(1000, 4)
    differences = []
    for seed in range(60):
        ours, standard = (
            torch.cat([g.flatten() for g in gradients(iw.Objective(IWAE(), name, num_samples=K), model, draws, seed)])
            for name in ("stl", "reparameterized")
        )
        differences.append(ours - standard)
    stacked = torch.stack(differences)
    assert ((stacked.mean(0) / (stacked.std(0) / 60**0.5 + 1e-12)).abs() > 10).any()


def test_signal_to_noise_with_more_samples() -> None:
    """Rainforth et al. 2018: the standard encoder gradient loses signal as k grows; Tucker et al. 2019: DReG gains."""
    model, x = away_from_the_optimum()

    def signal_to_noise(estimator: str, k: int, part: str) -> float:
        objective = iw.Objective(IWAE(), estimator, num_samples=k)
        parameters = [p for n, p in model.named_parameters() if n.startswith(part)]
        draws = []
        for seed in range(300):
            loss = objective(model, x[:1], seed=seed)
            draws.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
        stacked = torch.stack(draws)
        return float((stacked.mean(0).abs() / stacked.std(0)).median())

    few, many = 4, 256
    assert signal_to_noise("reparameterized", many, "encoder") < 0.6 * signal_to_noise(
        "reparameterized", few, "encoder"
    )
    assert signal_to_noise("dreg", many, "encoder") > 2.0 * signal_to_noise("dreg", few, "encoder")
    assert signal_to_noise("reparameterized", many, "decoder") > 2.0 * signal_to_noise(
        "reparameterized", few, "decoder"
    )


def test_one_weight_that_takes_everything() -> None:
    """Scales that underflow, log-weights that are -inf: gradients stay finite."""
    model, x = away_from_the_optimum()
    model.float()
    with torch.no_grad():
        model.encoder.log_std += 4.0
    for bound, estimator in CELLS:
        objective = iw.Objective(bound, estimator, num_samples=K)
        for gradient in gradients(objective, model, 30.0 * x.float(), 2):
            assert gradient.isfinite().all(), (bound, estimator)


@pytest.mark.parametrize("estimator", [name for name, e in ESTIMATORS.items() if e.only_iwae])
def test_estimators_of_iwae_refuse_other_bounds(estimator: str) -> None:
    for bound in (ELBO(), PIWAE(2), VRIWAE(0.5)):
        with pytest.raises(ValueError, match=f"estimator '{estimator}' is made of IWAE's weights: it does not suit"):
            iw.Objective(bound, estimator, num_samples=K)


@pytest.mark.parametrize("bound", [CUBO(2), VRIWAE(-0.5)], ids=repr)
def test_upper_bounds_are_refused(bound: Bound) -> None:
    with pytest.raises(ValueError, match="is an upper bound: an encoder must not ascend it"):
        iw.Objective(bound, num_samples=K)


@pytest.mark.parametrize("estimator", ["dreg", "rws"])
def test_frozen_networks_autocast_and_accumulation(estimator: str) -> None:
    model, x = iw.models.DenseVAE(16, (4,), (8,)), torch.rand(5, 16)
    objective = iw.Objective(IWAE(), estimator, num_samples=3)
    objective(model, x, seed=1).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    objective(model, x, seed=1).backward()  # accumulates
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, 2 * expected[name])
    model.zero_grad()
    model.encoder.requires_grad_(False)
    objective(model, x, seed=1).backward()
    for name, p in model.decoder.named_parameters():
        torch.testing.assert_close(p.grad, expected[f"decoder.{name}"])
    model.encoder.requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(model, x, seed=1)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        assert not objective(model, x, seed=1).requires_grad
