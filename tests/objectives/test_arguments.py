"""Tests of an objective's arguments besides x: masks, context, the weight of the divergence, the data set size."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from linear_gaussian import Affine, exact_log_likelihood, linear_gaussian
from offered_settings import BOUNDS, MODELS, K, away_from_the_optimum, gradients
from torch import Tensor, nn

import iwae_fast as iw
from iwae_fast.bounds import CUBO, ELBO, IWAE, SUMO
from iwae_fast.objectives import schedules

WAYS = ({}, {"chunk_size": 2}, {"budget": 3}, {"tolerance": 0.1})


class Conditional(nn.Module):
    """A module of z or x, and of context."""

    def __init__(self, inputs: int, context: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs + context, outputs)

    def forward(self, value: Tensor, *context: Tensor) -> Tensor:
        return self.linear(torch.cat([value, *context], -1))


class ConditionalGaussian(Conditional):
    def forward(self, value: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = super().forward(value, *context).chunk(2, -1)
        return mean, log_std


def conditional_model() -> iw.models.VAE:
    torch.manual_seed(1)
    return iw.models.VAE(ConditionalGaussian(4, 3, 4), Conditional(2, 3, 4), latent_dim=2).double()


@pytest.mark.parametrize("estimator", ["reparameterized", "dreg", "rws"])
@pytest.mark.parametrize("options", WAYS)
def test_context_is_as_good_as_a_model_of_each_observation(options: dict, estimator: str) -> None:
    """Compare with a model whose biases contain the context's contribution to each layer."""
    model, x, context = conditional_model(), torch.rand(5, 4).double(), torch.randn(5, 3).double()
    objective = iw.Objective(IWAE(), estimator, K, reduction="none", **options)
    together = objective(model, x, context=(context,), seed=4)

    class Absorbed(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, value: Tensor) -> Tensor:
            rows = torch.arange(len(value)) % len(context)  # row i of a decoder belongs to observation i mod B
            return self.module(value, context[rows])

    plain = iw.models.VAE(Absorbed(model.encoder), Absorbed(model.decoder), latent_dim=2)
    apart = objective(plain, x, seed=4)
    torch.testing.assert_close(together, apart)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(apart.sum(), parameters)
    torch.testing.assert_close(torch.autograd.grad(together.sum(), parameters), expected)
    bound = objective.bind(model)
    torch.testing.assert_close(bound(x, context=(context,), seed=4), together)


def test_context_that_does_not_fit() -> None:
    model, x = conditional_model(), torch.rand(5, 4).double()
    objective = iw.Objective(IWAE(), num_samples=2)
    with pytest.raises(ValueError, match=r"context \(4, 3\) must have one row per observation, 5 in all"):
        objective(model, x, context=(torch.zeros(4, 3).double(),))
    with pytest.raises(TypeError, match="context must be tensors, got list"):
        objective(model, x, context=([1.0],))
    with pytest.raises(TypeError, match=r"context must be a sequence of tensors, such as \(y,\)"):
        iw.evaluate.log_likelihood(model, x, 2, context=torch.zeros(5, 3).double())


def test_context_elsewhere() -> None:
    model, x, context = conditional_model(), torch.rand(300, 4).double(), torch.randn(300, 3).double()
    whole = iw.evaluate.log_likelihood(model, x, 20, seed=3, context=(context,))
    log_weights = model.log_weights(x, 20, 3, context=(context,))
    torch.testing.assert_close(whole.value, iw.log_mean_exp(log_weights).detach())  # more than a chunk of observations
    assert model.reconstruct(x, context=(context,)).shape == x.shape
    assert model.sample(300, context=(context,)).shape == (300, 4)
    assert model.sample_implicit_posterior(x, 5, 1, context=(context,)).shape == (300, 2)


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("name", ["one layer", "two layers", "three layers", "binary"])
def test_masked_features_count_nothing(name: str, options: dict) -> None:
    """Check that masked values are ignored, and that a mask of ones changes nothing."""
    model, x = away_from_the_optimum(name)
    mask = torch.tensor([[True, True, False, True], [True] * 4, [False] * 4])
    objective = iw.Objective(IWAE(), "vimco" if name == "binary" else "dreg", K, **options)
    hidden = x.clone()
    hidden[~mask] = math.nan
    zeros = torch.where(mask, x, 0.0)
    expected = gradients(objective, model, zeros, 1, mask=mask)
    torch.testing.assert_close(gradients(objective, model, hidden, 1, mask=mask), expected)
    assert objective.last.value.isfinite().all()
    assert all(g.isfinite().all() for g in expected)
    everything = gradients(objective, model, x, 1, mask=torch.ones_like(x, dtype=torch.bool))
    torch.testing.assert_close(everything, gradients(objective, model, x, 1))


def test_masked_bound_is_of_the_observed_features() -> None:
    """Compare many samples with the linear Gaussian model's exact log p(x_observed) (Mattei & Frellsen 2019)."""
    model, x = linear_gaussian(), torch.randn(3, 7, dtype=torch.float64)
    observed = torch.tensor([True, True, False, True, False, True, True])
    parts = model.decoder.weight[observed], model.decoder.bias[observed], model.decoder.log_std[observed]
    smaller = iw.models.VAE(model.encoder, Affine(*(p.detach() for p in parts)), "gaussian")
    exact = exact_log_likelihood(smaller, x[:, observed]).detach()
    found = iw.evaluate.log_likelihood(model, x, 200_000, seed=1, mask=observed)
    assert ((found.value - exact).abs() < 5 * found.std_error + 1e-3).all()
    many, masks = x[:1].expand(300, 7), torch.rand(300, 7) < 0.5  # more than a chunk of observations
    whole = iw.evaluate.log_likelihood(model, many, 5, seed=1, mask=masks)
    torch.testing.assert_close(whole.value, iw.log_mean_exp(model.log_weights(many, 5, 1, mask=masks)).detach())
    one = iw.evaluate.log_likelihood(model, x, 50, seed=1, mask=observed.expand(3, 7)).value
    torch.testing.assert_close(one, iw.evaluate.log_likelihood(model, x, 50, seed=1, mask=observed).value)
    mean, _ = model.encode(torch.where(observed, x, 0.0))
    torch.testing.assert_close(model.reconstruct(x, mask=observed), model.decoder(mean)[0].detach())


def test_images_with_masks() -> None:
    decoder = nn.Sequential(nn.Linear(2, 16), nn.Unflatten(1, (1, 4, 4)))
    encoder = nn.Sequential(nn.Flatten(), ConditionalGaussian(16, 0, 4))
    model, x = iw.models.VAE(encoder, decoder), torch.rand(3, 1, 4, 4)
    mask = torch.rand(4, 4) < 0.5  # one for all images
    loss = iw.Objective(IWAE(), num_samples=3)(model, x, mask=mask, seed=1)
    torch.testing.assert_close(
        loss, iw.Objective(IWAE(), num_samples=3)(model, x, mask=mask.expand(3, 1, 4, 4), seed=1)
    )
    with pytest.raises(ValueError, match=r"shapes do not broadcast: mask \(3, 4\)"):
        iw.Objective(IWAE(), num_samples=2)(model, x, mask=mask[:3])
    with pytest.raises(TypeError, match="mask must be a bool tensor"):
        iw.Objective(IWAE(), num_samples=2)(model, x, mask=mask.float())


def test_schedules() -> None:
    warmup = schedules.LinearWarmup(10, start=0.2)
    assert [warmup(0), warmup(5), warmup(10), warmup(99)] == pytest.approx([0.2, 0.6, 1.0, 1.0])
    assert pickle.loads(pickle.dumps(iw.Objective(ELBO(), kl_weight=warmup))).kl_weight == warmup
    cycle = schedules.Cyclical(10, rising=0.5)
    assert [cycle(0), cycle(2), cycle(5), cycle(9), cycle(10), cycle(12)] == pytest.approx([0, 0.4, 1, 1, 0, 0.4])
    with pytest.raises(ValueError, match="steps must be at least 1"):
        schedules.LinearWarmup(0)
    with pytest.raises(ValueError, match="start must be a finite number, got nan"):
        schedules.LinearWarmup(3, start=math.nan)
    with pytest.raises(ValueError, match="rising must be above 0"):
        schedules.Cyclical(10, rising=0.0)


def test_a_schedule_is_asked_for_its_step() -> None:
    model, x = away_from_the_optimum()
    scheduled = iw.Objective(ELBO(), num_samples=K, kl_weight=schedules.LinearWarmup(10))
    for step, weight in ((0, 0.0), (4, 0.4), (20, 1.0)):
        fixed = iw.Objective(ELBO(), num_samples=K, kl_weight=weight)
        assert torch.equal(scheduled(model, x, seed=1, step=step), fixed(model, x, seed=1))
        assert scheduled.last.kl_weight == weight
    with pytest.raises(ValueError, match="kl_weight is a schedule: call the objective with step="):
        scheduled(model, x)
    with pytest.raises(ValueError, match="the schedule's kl_weight must be a number of at least 0, got -1"):
        iw.Objective(ELBO(), kl_weight=lambda _: -1.0)(model, x, step=0)


def test_free_bits() -> None:
    """Check that a dimension's divergence has no gradient below the free bits, and its full gradient above."""
    model, x = away_from_the_optimum()
    mean, log_std = model.encode(x)
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0.0, 1.0)
    ).mean(0)
    bits = divergence.detach().mean().item()  # between the two dimensions
    assert divergence.min() < bits < divergence.max()
    z, _ = iw.sample_gaussian(mean, log_std, K, 1)
    cost = 0.7 * torch.maximum(divergence, torch.tensor(bits)).sum()
    expected = -(model.log_likelihood(x, z).mean(0) - cost).mean()
    found = iw.Objective(ELBO(), num_samples=K, free_bits=bits, kl_weight=0.7)(model, x, seed=1)
    torch.testing.assert_close(found, expected)
    parameters = list(model.parameters())
    torch.testing.assert_close(torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters))


def test_free_bits_of_nothing_are_the_elbo_on_average() -> None:
    model, x = away_from_the_optimum()
    draws = x[:1].expand(20_000, 4)
    plain = iw.Objective(ELBO(), num_samples=1, reduction="none")(model, draws, seed=1)
    free = iw.Objective(ELBO(), num_samples=1, free_bits=1e-9)(model, draws, seed=1)
    assert abs(plain.mean() - free) < 5 * plain.std() / 20_000**0.5


def test_the_whole_data_set() -> None:
    model, x = away_from_the_optimum()
    total = iw.Objective(IWAE(), num_samples=K, reduction="sum")(model, x, seed=1)
    scaled = iw.Objective(IWAE(), num_samples=K, reduction="sum", dataset_size=600)(model, x, seed=1)
    torch.testing.assert_close(scaled, 200 * total)
    empty = iw.Objective(IWAE(), num_samples=K, reduction="sum", dataset_size=600)(model, x[:0], seed=1)
    assert empty.item() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kl_weight": -1.0}, "kl_weight must be a number of at least 0, got -1.0"),
        ({"kl_weight": math.nan}, "kl_weight must be a number of at least 0"),
        ({"free_bits": -0.1}, "free_bits must be a number of at least 0"),
        ({"free_bits": 0.1, "bound": IWAE()}, "free_bits requires"),
        ({"free_bits": 0.1, "estimator": "stl"}, "free_bits requires"),
        ({"free_bits": 0.1, "budget": 2}, "free_bits requires"),
        ({"dataset_size": 100}, "dataset_size requires reduction 'sum', got 'mean'"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        iw.Objective(**{"bound": ELBO(), "num_samples": 4, **arguments})


def test_free_bits_need_a_divergence_in_closed_form() -> None:
    x = torch.zeros(1, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="the KL divergence per dimension of VAE has no closed form"):
        iw.Objective(ELBO(), free_bits=0.1)(MODELS["two layers"](), x)


@pytest.mark.parametrize("bound", [b for b in BOUNDS if not isinstance(b, (SUMO, CUBO))][:4], ids=repr)
def test_half_precision_models_and_odd_layouts(bound: iw.bounds.Bound) -> None:
    model = iw.models.DenseVAE(16, (4, 2), ((8,), (4,))).bfloat16()
    x = torch.rand(16, 5).T.bfloat16()  # strided
    loss = iw.Objective(bound, "dreg", num_samples=4, budget=2)(model, x, seed=1)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters())
