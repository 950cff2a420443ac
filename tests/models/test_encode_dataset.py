"""Tests of latent representations: of observations, of a whole data set, and their dimension."""

from __future__ import annotations

import copy

import pytest
import torch
from linear_gaussian import linear_gaussian
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import iwae_fast as iw


class Encoder(nn.Module):
    """An encoder whose layers give other results in training mode, and then change their state."""

    def __init__(self, inputs: int = 12, latent: int = 3) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2 * latent))

    def forward(self, x: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.net(torch.cat([x, *context], 1)).chunk(2, -1)
        return mean, log_std


class Decoder(nn.Sequential):
    def __init__(self, latent: int = 3) -> None:
        super().__init__(nn.Linear(latent, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 12))


def two_layers() -> iw.models.VAE:
    return iw.models.VAE(Encoder(), Decoder(), upper=[(Encoder(3, 2), Encoder(2, 3))])


MODELS = {
    "one layer": lambda: iw.models.VAE(Encoder(), Decoder()),
    "two layers": two_layers,
    "vamp": lambda: iw.models.VAE(Encoder(), Decoder(), prior=iw.models.VampPrior(torch.rand(4, 12))),
    "binary": lambda: iw.models.BernoulliVAE(
        nn.Sequential(nn.Linear(12, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)), Decoder(), latent_dim=3
    ),
    "random weights": lambda: iw.models.RandomWeightsVAE(12, 3, (8,)),
}


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> iw.models.LatentVariableModel:
    made = MODELS[request.param]()
    iw.Objective(iw.bounds.IWAE(), "vimco" if request.param == "binary" else "reparameterized", 3)(
        made, torch.rand(20, 12)
    )
    return made


def test_posterior_mean_of_observations_is_that_of_their_posterior(model: iw.models.LatentVariableModel) -> None:
    x = torch.rand(5, 12)
    found = model.posterior_mean(x)
    assert found.shape == (5, 3)
    assert found.requires_grad
    assert all(module.training for module in model.modules())
    model.eval()
    assert torch.equal(found, model.posterior_mean(model.encode(x)))


def test_what_is_no_posterior_is_named() -> None:
    model = MODELS["one layer"]()
    x = torch.rand(5, 12)
    for call in (model.kl_by_dimension, lambda x: model.log_weights(x, 2, posterior=x)):
        with pytest.raises(TypeError, match=r"posterior must be the result of encode\(x\), got Tensor"):
            call(x)
    with pytest.raises(TypeError, match=r"x must be observations .* or the result of encode.* got list"):
        model.posterior_mean([1.0])
    with pytest.raises(ValueError, match="go with observations x, not with a posterior"):
        model.posterior_mean(model.encode(x), mask=torch.ones(5, 12, dtype=torch.bool))


def test_what_only_looks_at_a_model_changes_nothing_in_it(model: iw.models.LatentVariableModel) -> None:
    """Compare results with those in evaluation mode, and check that the model is unchanged afterwards."""
    model.encoder.eval()  # each module gets its own mode back
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    reference = copy.deepcopy(model).eval()
    x = torch.rand(6, 12)
    for look in (
        lambda m: m.reconstruct(x),
        lambda m: m.sample(5, seed=1),
        lambda m: m.prior_draws(5, seed=1),
        lambda m: m.sample_implicit_posterior(x, 4, seed=1),
        lambda m: m.encode_dataset(x),
    ):
        found = look(model)
        assert not found.requires_grad
        assert torch.equal(found, look(reference))
    assert [module.training for module in model.modules()] == modes
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0, equal_nan=True)


def test_a_data_set_in_every_form(model: iw.models.LatentVariableModel) -> None:
    x, labels = torch.rand(10, 12), torch.arange(10)
    expected = copy.deepcopy(model).eval().posterior_mean(x).detach()
    pairs = TensorDataset(x, labels)
    for data, size in (
        (x, None),
        (x, 3),
        (pairs, 4),
        (DataLoader(pairs, batch_size=4), None),
        (list(x.split(3)), None),
        ([{"x": x[:7], "labels": labels[:7]}, {"x": x[7:]}], None),
        ((part for part in x.split(5)), None),
    ):
        found = model.encode_dataset(data, size)
        torch.testing.assert_close(found, expected)


def test_context_and_masks_of_batches() -> None:
    model = iw.models.VAE(Encoder(14), Decoder())
    x, y, mask = torch.rand(10, 12), torch.rand(10, 2), torch.rand(10, 12) > 0.3
    expected = copy.deepcopy(model).eval().posterior_mean(x, context=(y,)).detach()
    torch.testing.assert_close(model.encode_dataset(TensorDataset(x, y, y), 4, num_context=1), expected)
    batches = [{"x": x[:7], "context": y[:7], "mask": mask[:7]}, {"x": x[7:], "context": (y[7:],), "mask": mask[7:]}]
    masked = copy.deepcopy(model).eval().posterior_mean(x, context=(y,), mask=mask).detach()
    torch.testing.assert_close(model.encode_dataset(batches), masked)


@pytest.mark.parametrize("name", ["one layer", "two layers", "binary", "random weights"])
def test_draws_do_not_depend_on_the_batches(name: str) -> None:
    model = MODELS[name]().eval().double()
    x = torch.rand(11, 12, dtype=torch.float64).round()
    whole = model.encode_dataset(x, num_samples=20, seed=3)
    assert torch.equal(whole, model.sample_implicit_posterior(x, 20, 3))
    for data, batch_size in ((x, 4), (list(x.split(3)), None), (TensorDataset(x, torch.arange(11)), 1)):
        torch.testing.assert_close(model.encode_dataset(data, batch_size, num_samples=20, seed=3), whole)
    assert len(model.encode_dataset(x[:1].expand(11, 12), num_samples=20, seed=3).unique(dim=0)) > 1
    assert not torch.equal(model.encode_dataset(x, num_samples=20), whole)


def test_draws_approach_the_posterior() -> None:
    """Compare with the exact posterior, from a proposal that is shifted and too wide."""
    model = linear_gaussian()
    x = torch.randn(1, 7, dtype=torch.float64)
    mean, log_std = (tensor.detach()[0].clone() for tensor in model.encode(x))
    with torch.no_grad():
        model.encoder.bias += 0.5 * log_std.exp()
        model.encoder.log_std += 0.2
    z = model.encode_dataset(x.expand(4000, 7), num_samples=100, seed=1)
    assert ((z.mean(0) - mean).abs() < 0.1 * log_std.exp()).all()
    assert ((z.std(0) / log_std.exp() - 1).abs() < 0.1).all()


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (torch.rand(3, 12), {"seed": 1}, ValueError, "seed must be None for posterior means"),
        (torch.rand(3, 12), {"num_samples": 0}, ValueError, "num_samples must be at least 1"),
        ((torch.rand(3, 12), torch.arange(3)), {}, TypeError, "TensorDataset.* for tensors that belong together"),
        ("digits", {}, TypeError, "data must be a tensor .* got str"),
        (None, {}, TypeError, "got NoneType"),
        ([], {}, ValueError, "at least one batch"),
        (
            [torch.rand(3, 12)],
            {"batch_size": 2},
            ValueError,
            "batch_size must be None for data that are batches already, got 2",
        ),
        (torch.rand(3, 12), {"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ([(torch.rand(3, 12),)], {"num_context": 1}, ValueError, "1 elements of context after x, got 0"),
        ([(torch.rand(3, 12),)], {"num_context": -1}, ValueError, "num_context must be"),
        ([{"pixels": torch.rand(3, 12)}], {}, ValueError, "must have 'x', got 'pixels'"),
        ([[[0.5] * 12]], {}, TypeError, "x of a batch must be a tensor .* got list"),
    ],
)
def test_data_that_are_refused(data: object, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MODELS["one layer"]().encode_dataset(data, **options)


def test_samples_know_the_size_of_z_once_the_model_has_seen_observations() -> None:
    x = torch.rand(6, 12)
    one, two = MODELS["one layer"](), two_layers()
    for model, advice in ((one, r"call encode\(x\) first"), (two, "call an objective with the model first")):
        with pytest.raises(ValueError, match=f"give latent_dim to VAE.*{advice}"):
            model.sample(4)
    one.encode(x)
    iw.Objective(iw.bounds.IWAE(), num_samples=2)(two, x)
    assert (one.latent_dim, two.latent_dim) == (3, 2)
    for model in (one, two):
        assert model.sample(4).shape == (4, 12)
        assert copy.deepcopy(model).sample(4).shape == (4, 12)
    by_distribution = iw.models.VAE(LaplaceEncoder(), Decoder())
    by_distribution.encode(x)
    assert by_distribution.prior_draws(4, seed=1).shape == (4, 3)


class LaplaceEncoder(Encoder):
    def forward(self, x: Tensor) -> torch.distributions.Laplace:  # type: ignore[override]
        mean, log_std = super().forward(x)
        return torch.distributions.Laplace(mean, log_std.exp())
