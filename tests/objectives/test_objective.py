from __future__ import annotations

import pytest
import torch
from linear_gaussian import exact_log_likelihood, linear_gaussian

import iwae_fast as iw

BOUNDS = [iw.bounds.ELBO(), iw.bounds.IWAE()]


@pytest.mark.parametrize("bound", BOUNDS, ids=repr)
@pytest.mark.parametrize("k", [1, 2, 50])
def test_exact_posterior_gives_the_marginal_likelihood(bound: iw.bounds.Bound, k: int) -> None:
    model, x = linear_gaussian(), torch.randn(6, 7, dtype=torch.float64)
    objective = iw.Objective(bound, num_samples=k)
    loss = objective(model, x)
    torch.testing.assert_close(loss, -exact_log_likelihood(model, x).mean())
    torch.testing.assert_close(objective.last.value, exact_log_likelihood(model, x).detach())
    torch.testing.assert_close(objective.last.ess, torch.full((6,), float(k), dtype=torch.float64))
    torch.testing.assert_close(objective.last.max_weight, torch.full((6,), 1.0 / k, dtype=torch.float64))
    assert objective.last.num_backward.tolist() == [k] * 6


def test_gap_at_one_sample_is_the_divergence_to_the_posterior() -> None:
    model, x = linear_gaussian(), torch.randn(1, 7, dtype=torch.float64)
    mean, log_std = model.encode(x)
    posterior = torch.distributions.Normal(mean.clone(), log_std.exp())
    with torch.no_grad():
        model.encoder.bias += 0.3
        model.encoder.log_std -= 0.2
    mean, log_std = model.encode(x)
    divergence = torch.distributions.kl_divergence(torch.distributions.Normal(mean, log_std.exp()), posterior).sum()
    elbos = -iw.Objective(iw.bounds.ELBO(), num_samples=1, reduction="none")(model, x.expand(20_000, 7), seed=3)
    gap = exact_log_likelihood(model, x).item() - elbos.mean().item()
    assert abs(gap - divergence.item()) < 5 * (elbos.std() / 20_000**0.5).item()


def test_bound_does_not_fall_with_k() -> None:
    model, x = linear_gaussian(), torch.randn(1, 7, dtype=torch.float64).expand(2000, 7)
    with torch.no_grad():
        model.encoder.log_std += 0.7
    means = [-iw.Objective(iw.bounds.IWAE(), num_samples=k)(model, x, seed=1).item() for k in (1, 5, 50)]
    assert means == sorted(means)
    assert means[-1] < exact_log_likelihood(model, x).mean().item() + 0.01


def test_gradient_is_that_of_the_densities_written_out() -> None:
    model, x = linear_gaussian(), torch.randn(4, 7, dtype=torch.float64)
    with torch.no_grad():
        model.encoder.log_std += 0.5
    iw.Objective(iw.bounds.IWAE(), num_samples=5)(model, x, seed=2).backward()
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()

    normal = torch.distributions.Normal
    mean, log_std = model.encode(x)
    z = mean + log_std.exp() * iw.standard_normal((5, 4, 3), 2, dtype=torch.float64)
    pixel_mean, pixel_log_std = model.decoder(z)
    log_weights = (
        normal(pixel_mean, pixel_log_std.exp()).log_prob(x).sum(-1)
        + normal(0.0, 1.0).log_prob(z).sum(-1)
        - normal(mean, log_std.exp()).log_prob(z).sum(-1)
    )
    (-torch.logsumexp(log_weights, 0).mean()).backward()
    torch.testing.assert_close(ours, [p.grad for p in model.parameters()])


def test_maximum_likelihood_by_training() -> None:
    """Train probabilistic principal components to the likelihood of the exact solution."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(500, 2, dtype=torch.float64, generator=generator) @ torch.randn(
        2, 5, dtype=torch.float64, generator=generator
    )
    x = truth + 0.3 * torch.randn(500, 5, dtype=torch.float64, generator=generator)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    noise = eigenvalues[2:].mean()
    exact = -0.5 * (5 * torch.log(torch.tensor(2 * torch.pi)) + eigenvalues[:2].log().sum() + 3 * noise.log() + 5)

    model = linear_gaussian(data_dim=5, latent_dim=2)
    # One noise level for all pixels, as the exact solution has.
    log_noise = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    model.decoder.log_std = log_noise
    objective = iw.Objective(iw.bounds.IWAE(), num_samples=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)
    for step in range(800):
        optimizer.zero_grad()
        objective(model, x, seed=step).backward()
        optimizer.step()
        schedule.step()
    weight = model.decoder.weight
    covariance = weight @ weight.T + torch.eye(5, dtype=torch.float64) * (2 * log_noise).exp()
    reached = torch.distributions.MultivariateNormal(model.decoder.bias, covariance).log_prob(x).mean()
    assert abs(reached.item() - exact.item()) < 1e-2


def test_same_seed_same_numbers() -> None:
    model, x = iw.models.DenseVAE(16, (4,), (8,)), torch.rand(5, 16)
    objective = iw.Objective(iw.bounds.IWAE(), num_samples=3)
    assert torch.equal(objective(model, x, seed=1), objective(model, x, seed=1))
    assert not torch.equal(objective(model, x, seed=1), objective(model, x, seed=2))
    torch.manual_seed(4)
    first = objective(model, x)
    torch.manual_seed(4)
    assert torch.equal(objective(model, x), first)


def test_reductions() -> None:
    model, x = iw.models.DenseVAE(16, (4,), (8,)), torch.rand(5, 16)
    none, mean, total = (
        iw.Objective(iw.bounds.IWAE(), num_samples=3, reduction=r)(model, x, seed=1) for r in ("none", "mean", "sum")
    )
    assert none.shape == (5,)
    torch.testing.assert_close(none.mean(), mean)
    torch.testing.assert_close(none.sum(), total)


def test_bind_compiles_as_one_graph() -> None:
    torch._dynamo.reset()
    model, x = iw.models.DenseVAE(16, (4,), (8,)), torch.rand(5, 16)
    bound = iw.Objective(iw.bounds.IWAE(), num_samples=3).bind(model)
    expected = bound(x, seed=torch.tensor(7))
    expected.backward()
    expected_grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    compiled = torch.compile(bound, fullgraph=True, backend="aot_eager")
    loss = compiled(x, seed=torch.tensor(7))
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close([p.grad for p in model.parameters()], expected_grads)
    assert dict(bound.named_parameters()).keys() == {f"model.{name}" for name, _ in model.named_parameters()}


def test_autocast_trains() -> None:
    model, x = iw.models.DenseVAE(16, (4,), (8,)), torch.rand(5, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = iw.Objective(iw.bounds.IWAE(), num_samples=3)(model, x, seed=1)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bound": iw.bounds.IWAE}, TypeError, "bound must be one of iwae_fast.bounds"),
        ({"bound": "iwae"}, TypeError, "bound must be one of"),
        ({"estimator": "magic"}, ValueError, "estimator must be one of reparameterized, stl, .*, got 'magic'"),
        ({"num_samples": 0}, ValueError, "num_samples must be at least 1"),
        ({"num_samples": 2.0}, TypeError, "num_samples must be an int"),
        ({"reduction": "median"}, ValueError, "reduction must be one of"),
    ],
)
def test_bad_arguments(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        iw.Objective(**{"bound": iw.bounds.IWAE(), "num_samples": 2, **arguments})
