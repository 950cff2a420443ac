"""Tests of active units on models with known posterior means, and of pruning against models that were built smaller."""

import pytest
import torch
import torch.nn.utils.prune
from linear_gaussian import linear_gaussian, two_layer_linear_gaussian

import iwae_fast as iw
from iwae_fast.evaluate.activity import active_units
from iwae_fast.evaluate.pruning import without_units

OBSERVATIONS = 300


@pytest.fixture
def x():
    return torch.randn(OBSERVATIONS, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def variance_of(linear, values):
    """Compute the variance over observations of an affine mean."""
    return (values @ linear.weight.T + linear.bias).var(0).detach()


def test_one_layer(x):
    model = linear_gaussian(4, 3)
    with torch.no_grad():
        model.encoder.weight[1] *= 1e-3
    found = active_units(model, x)
    torch.testing.assert_close(found.variance[0], variance_of(model.encoder, x))
    assert found.noise[0].count_nonzero() == 0
    assert found.active[0].tolist() == [True, False, True]
    assert (found.counts, found.sizes, found.threshold) == ((2,), (3,), 1e-2)


def test_two_layers_without_the_noise_of_their_draws(x):
    """Compare with E[z_2 | x] at E[z_1 | x]: the large noise of two draws is subtracted."""
    model = two_layer_linear_gaussian()
    upper = model.upper[0].encoder
    below = (x @ model.encoder.weight.T + model.encoder.bias).detach()
    exact = variance_of(upper, below)
    found = [active_units(model, x, num_samples=2, seed=seed) for seed in range(40)]
    noise = torch.stack([activity.noise[1] for activity in found])
    variance = torch.stack([activity.variance[1] for activity in found])
    expected = (upper.weight.square() @ (2 * model.encoder.log_std).exp()).detach() / 2
    torch.testing.assert_close(noise.mean(0), expected, rtol=0.05, atol=0.0)
    assert bool((noise.mean(0) > 0.05 * exact).all())
    assert bool(((variance.mean(0) - exact).abs() < 4.0 * variance.std(0) / len(found) ** 0.5).all())
    torch.testing.assert_close(active_units(model, x, seed=0).variance[1], exact, rtol=0.05, atol=0.0)


def test_a_unit_that_follows_nothing_is_inactive(x):
    """Use a mean that varies with z_1 but not with x, so that all of its variance is noise."""
    model = two_layer_linear_gaussian()
    with torch.no_grad():
        model.encoder.weight.zero_()
        model.encoder.log_std.fill_(0.0)
    found = active_units(model, x, seed=1)
    assert bool((found.noise[1] > 1e-3).all())
    assert found.counts == (0, 0)


def test_seeded_and_independent_of_batches(x, monkeypatch):
    model = two_layer_linear_gaussian().train()
    first = active_units(model, x, seed=3)
    assert model.training
    monkeypatch.setattr("iwae_fast.activity.OBSERVATIONS_A_BATCH", 7)
    torch.testing.assert_close(active_units(model, x, seed=3).variance, first.variance)
    assert not torch.equal(active_units(model, x, seed=4).variance[1], first.variance[1])


def test_binary_latents(x):
    encoder = torch.nn.Linear(4, 3)
    model = iw.models.BernoulliVAE(encoder, torch.nn.Linear(3, 4), latent_dim=3)
    found = active_units(model, x.float())
    torch.testing.assert_close(found.variance[0], torch.sigmoid(encoder(x.float())).double().var(0).detach())


def test_arguments(x):
    model = linear_gaussian(4, 3)
    for arguments, error, message in (
        ((x[:1],), ValueError, "x must have at least 2 observations for a variance over them, got 1"),
        ((x.int(),), TypeError, "x must be float32"),
    ):
        with pytest.raises(error, match=message):
            active_units(model, *arguments)
    with pytest.raises(ValueError, match="num_samples must be at least 2 for a variance over them, got 1"):
        active_units(model, x, num_samples=1)
    with pytest.raises(ValueError, match="threshold must be at least 0, got -1"):
        active_units(model, x, threshold=-1.0)


# --- surgery ----------------------------------------------------------------------------------------------------


def dense(latent, hidden, seed=0, **settings):
    torch.manual_seed(seed)
    model = iw.models.DenseVAE(6, latent, hidden, **settings).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def built_smaller(model, latent, hidden, **settings):
    """Build a model of the first units of each layer; noise depends on a unit's index, so theirs is the same."""
    smaller = iw.models.DenseVAE(6, latent, hidden, **settings).double()
    state = model.state_dict()
    with torch.no_grad():
        for name, parameter in smaller.named_parameters():
            parameter.copy_(state[name][tuple(slice(size) for size in parameter.shape)])
    return smaller


@pytest.mark.parametrize(
    ("latent", "kept", "hidden"),
    [((5,), (3,), (7,)), ((5, 4), (3, 2), ((7,), (6,))), ((5, 4, 3), (4, 3, 1), ((7,), (6, 5), (4,)))],
)
def test_log_weights_are_those_of_a_model_built_without_the_units(latent, kept, hidden):
    model = dense(latent, hidden)
    x = torch.rand(8, 6, dtype=torch.float64).round()
    before = model.log_weights(x, 9, seed=2)
    masks = [torch.arange(size) < count for size, count in zip(latent, kept, strict=True)]
    pruned = without_units(model, masks)
    smaller = built_smaller(model, kept, hidden)
    torch.testing.assert_close(pruned.log_weights(x, 9, seed=2), smaller.log_weights(x, 9, seed=2))
    assert torch.equal(model.log_weights(x, 9, seed=2), before)
    assert not torch.allclose(pruned.log_weights(x, 9, seed=2), before)
    for variance, mask in zip(active_units(pruned, x, seed=0).variance, masks, strict=True):
        assert variance[~mask].count_nonzero() == 0


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
def test_priors_of_the_topmost_layer(prior):
    priors = {
        "mixture": lambda size: iw.models.MixturePrior(3, size),
        "vamp": lambda _: iw.models.VampPrior(torch.zeros(3, 6)),
    }
    model = dense((5,), (7,), prior=priors[prior](5))
    smaller = built_smaller(model, (3,), (7,), prior=priors[prior](3))
    x = torch.rand(8, 6, dtype=torch.float64).round()
    pruned = without_units(model, [torch.arange(5) < 3])
    torch.testing.assert_close(pruned.log_weights(x, 9, seed=2), smaller.log_weights(x, 9, seed=2))


def test_several_outputs_and_no_hidden_layers():
    """Check that the columns of every layer whose input is z become 0."""
    model = dense((5,), ((),), likelihood="gaussian")
    x = torch.rand(8, 6, dtype=torch.float64)
    pruned = without_units(model, [torch.arange(5) < 3])
    smaller = built_smaller(model, (3,), ((),), likelihood="gaussian")
    torch.testing.assert_close(pruned.log_weights(x, 9, seed=2), smaller.log_weights(x, 9, seed=2))


def test_nothing_to_switch_off():
    model = dense((5,), (7,))
    x = torch.rand(8, 6, dtype=torch.float64).round()
    same = without_units(model, [torch.ones(5, dtype=torch.bool)])
    assert torch.equal(same.log_weights(x, 4, seed=2), model.log_weights(x, 4, seed=2))


def test_networks_whose_weights_are_not_known():
    """Refuse layers whose weight is computed, where zeros would be lost, and layers of unknown types."""

    class Twice(torch.nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    parametrized, other, hidden = (dense((5,), (7,)) for _ in range(3))
    torch.nn.utils.parametrizations.weight_norm(parametrized.encoder.mean)
    other.encoder.log_std = Twice(7, 5)
    hidden.decoder.hidden[0].forward = torch.tanh
    for model, name in ((parametrized, "ParametrizedDenseLayer"), (other, "Twice"), (hidden, "TanhLayer")):
        with pytest.raises(TypeError, match=rf"cannot be disabled: the module .* \({name}\) is not supported"):
            without_units(model, [torch.ones(5).bool()])
    torch.nn.utils.prune.identity(hidden.encoder.mean, "weight")
    with pytest.raises(TypeError, match=r"the weight of mean \(DenseLayer\) is computed from other tensors"):
        without_units(hidden, [torch.ones(5).bool()])


def test_arguments_of_surgery():
    model = dense((5,), (7,))
    own = iw.models.DenseVAE(6, (5,), (7,), prior=torch.distributions.Laplace(torch.zeros(5), torch.ones(5)))
    for arguments, error, message in (
        ((linear_gaussian(4, 3), [torch.ones(3).bool()]), TypeError, "pruning supports DenseVAE only, not VAE"),
        ((own, [torch.ones(5).bool()]), TypeError, "the prior DistributionPrior is not supported"),
        ((model, []), ValueError, "kept must have 1 masks, one per layer, got 0"),
        ((model, [torch.ones(5)]), TypeError, r"kept\[0\] must be a bool tensor, got torch.float32"),
        ((model, [torch.ones(4).bool()]), ValueError, r"kept\[0\] must have shape \(5,\), got \(4,\)"),
    ):
        with pytest.raises(error, match=message):
            without_units(*arguments)
