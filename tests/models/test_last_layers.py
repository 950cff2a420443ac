"""Tests of last layers of every kind: objective, gradients and likelihood equal those of calling the decoder."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, parametrize, prune

import iwae_fast as iw
from iwae_fast.bounds import IWAE

D, Z, H, B, K, SEED = 12, 3, 8, 5, 6, 3


class Twice(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2.0 * super().forward(input)


class LowRank(nn.Module):
    """An adapter with the weight of the layer that it wraps as a property."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(2, H, dtype=torch.float64))
        self.up = nn.Parameter(torch.randn(D, 2, dtype=torch.float64))

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor:
        return self.base.bias

    def forward(self, hidden: Tensor) -> Tensor:
        return self.base(hidden) + hidden @ self.down.T @ self.up.T


class Packed(nn.Module):
    """A layer like a quantized one: its weight is packed in integers and returned by a method."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.packed = nn.Parameter((base.weight.detach() * 30).round().to(torch.int8), requires_grad=False)

    def weight(self) -> Tensor:
        return self.packed.double() / 30

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden @ self.weight().T


class TripleOutput(iw.models.LinearOutput):
    """A decoder that overrides ``forward``."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.output = inner, inner.output

    def features(self, z: Tensor, *context: Tensor) -> Tensor:
        return self.inner.features(z, *context)

    def forward(self, z: Tensor, *context: Tensor) -> Tensor:
        return 3.0 * super().forward(z, *context)


class Halved(nn.Module):
    """A parametrization that halves the weight."""

    def forward(self, weight: Tensor) -> Tensor:
        return 0.5 * weight


class Doubled(torch.Tensor):
    """A weight that a linear layer multiplies by two."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(function, types, args, kwargs or {})
        return 2.0 * result.as_subclass(Tensor) if function is F.linear else result


def new(layer: Callable[[Any], nn.Module]) -> Callable[[Any], None]:
    def change(decoder: Any) -> None:
        decoder.output = layer(decoder.output)

    return change


def an_instance_with_a_forward(decoder: Any) -> None:
    forward = decoder.output.forward
    decoder.output.forward = lambda hidden: 2.0 * forward(hidden)


def a_decoder_with_a_forward(decoder: Any) -> None:
    forward = type(decoder).forward
    decoder.forward = lambda z: 2.0 * forward(decoder, z)


def doubled_weight(decoder: Any) -> None:
    decoder.output.weight = nn.Parameter(decoder.output.weight.detach().as_subclass(Doubled), requires_grad=False)


def compiled(decoder: Any) -> None:
    decoder.output._compiled_call_impl = lambda hidden: 2.0 * decoder.output.forward(hidden)


TAKEN_IN_ONE: dict[str, Callable[[Any], Any]] = {
    "plain": lambda _: None,
    "no bias": new(lambda _: nn.Linear(H, D, bias=False)),
    "tied weight": lambda decoder: setattr(decoder.output, "weight", nn.Parameter(torch.randn(D, H))),
    "parametrized": lambda decoder: parametrize.register_parametrization(decoder.output, "weight", Halved()),
    "parametrized bias": lambda decoder: parametrize.register_parametrization(decoder.output, "bias", Halved()),
    "weight norm": lambda decoder: parametrizations.weight_norm(decoder.output),
    "weight that is a subclass": doubled_weight,
}

CALLED: dict[str, Callable[[Any], Any]] = {
    "subclass": new(lambda _: Twice(H, D)),
    "parametrized subclass": new(
        lambda _: parametrize.register_parametrization(Twice(H, D), "weight", Halved()),
    ),
    "adapter": new(LowRank),
    "sequence": new(lambda base: nn.Sequential(base, nn.Hardtanh())),
    "lazy": new(lambda _: nn.LazyLinear(D)),
    "packed": new(Packed),
    "instance": an_instance_with_a_forward,
    "instance of the decoder": a_decoder_with_a_forward,
    "compiled": compiled,
    "hook": lambda decoder: decoder.output.register_forward_hook(lambda _, __, output: 2.0 * output),
    "hook before": lambda decoder: decoder.output.register_forward_pre_hook(lambda _, inputs: (2.0 * inputs[0],)),
    "hook of the decoder": lambda decoder: decoder.register_forward_hook(lambda _, __, output: 2.0 * output),
    "pruned": lambda decoder: prune.l1_unstructured(decoder.output, "weight", 0.5),
}


def build(change: Callable[[Any], Any]) -> iw.models.VAE:
    torch.manual_seed(0)
    model = iw.models.DenseVAE(D, (Z,), (H,))
    with torch.no_grad():
        model.decoder.output.bias += torch.randn(D)
    change(model.decoder)
    return model.double()


def pixels() -> Tensor:
    return (torch.rand(B, D, generator=torch.Generator().manual_seed(1)) < 0.4).double()


def plain_log_weights(model: iw.models.VAE, x: Tensor, k: int, observation: int = 0) -> Tensor:
    """Compute log-weights by calling the networks, with torch.distributions."""
    mean, log_std = model.encoder(x)
    eps = iw.standard_normal((k, len(x), Z), SEED, observation_offset=observation, dtype=torch.float64)
    z = mean + log_std.exp() * eps
    logits = model.decoder(z.flatten(0, 1)).unflatten(0, (k, len(x)))
    likelihood = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
    q = torch.distributions.Normal(mean, log_std.exp(), validate_args=False)
    p = torch.distributions.Normal(0.0, 1.0, validate_args=False)
    return likelihood + (p.log_prob(z) - q.log_prob(z)).sum(-1)


def log_mean(log_weights: Tensor) -> Tensor:
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    wanted = [p for p in model.parameters() if p.requires_grad]
    return list(torch.autograd.grad(loss, wanted))


def assert_as_called(model: iw.models.VAE) -> None:
    """Assert that loss, gradients and likelihood are equal in one op and composed of calls."""
    x = pixels()
    model.decoder(torch.zeros(1, Z, dtype=torch.float64))  # what is lazy becomes what it is
    weights = plain_log_weights(model, x, K)
    expected = -log_mean(weights).mean()
    expected_gradients = gradients(expected, model)
    for objective in (iw.Objective(IWAE(), num_samples=K), iw.Objective(IWAE(), num_samples=K, chunk_size=4)):
        loss = objective(model, x, seed=SEED)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradients(loss, model), expected_gradients)
    torch.testing.assert_close(model.log_weights(x, K, SEED), weights)
    found = iw.evaluate.log_likelihood(model, x, 20, seed=SEED).value
    with torch.no_grad():
        torch.testing.assert_close(found, log_mean(plain_log_weights(model, x, 20)))


@pytest.mark.parametrize("kind", TAKEN_IN_ONE)
def test_a_plain_layer_is_taken_in_one(kind: str) -> None:
    model = build(TAKEN_IN_ONE[kind])
    assert model.has_plain_terms
    assert model.linear_decoder is model.decoder
    assert_as_called(model)


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("kind", CALLED)
def test_any_other_layer_is_called(kind: str) -> None:
    model = build(CALLED[kind])
    assert model.linear_decoder is None
    if kind == "lazy":  # from its first call on it is a plain layer
        assert iw.Objective(IWAE(), num_samples=K)(model, pixels()).isfinite()
        assert model.linear_decoder is model.decoder
    assert_as_called(model)


def test_weight_norm_of_the_old_style_is_called() -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = build(new(nn.utils.weight_norm))
    assert model.linear_decoder is None
    assert_as_called(model)


def test_a_decoder_with_a_forward_of_its_own_is_called() -> None:
    model = build(lambda _: None)
    model.decoder = TripleOutput(model.decoder)
    assert model.linear_decoder is None
    assert_as_called(model)


def test_a_parametrization_that_changes_when_it_is_read_is_read_once() -> None:
    """Read it once: in training mode every reading of spectral_norm's weight takes a step of its power iteration."""
    model = build(lambda decoder: parametrizations.spectral_norm(decoder.output))
    called = copy.deepcopy(model.decoder)
    z = torch.zeros(1, Z, dtype=torch.float64)
    for objective in (iw.Objective(IWAE(), num_samples=K), iw.Objective(IWAE(), "dreg", num_samples=K)):
        objective(model, pixels(), seed=SEED)
        called(z)
        torch.testing.assert_close(dict(model.decoder.named_buffers()), dict(called.named_buffers()))
    assert model.linear_decoder is model.decoder
    assert_as_called(model.eval())


def test_global_hooks_see_the_last_layer() -> None:
    model, seen = build(lambda _: None), []
    hook = register_module_forward_hook(lambda module, _, __: seen.append(module))
    try:
        iw.Objective(IWAE(), num_samples=K)(model, pixels())
    finally:
        hook.remove()
    assert {id(model.encoder), id(model.decoder), id(model.decoder.output)} <= {id(module) for module in seen}
    assert model.linear_decoder is model.decoder


class Tempered(iw.likelihoods.Bernoulli):
    def log_prob(self, value: Tensor, output: Any, *args: Any, **options: Any) -> Tensor:
        return super().log_prob(value, 0.5 * output, *args, **options)


class Weighted(iw.models.DenseVAE):
    def log_likelihood(self, x: Tensor, z: Tensor, **options: Any) -> Tensor:
        return 0.5 * super().log_likelihood(x, z, **options)


def test_a_likelihood_of_ones_own_is_asked() -> None:
    model = build(lambda _: None)
    model.likelihood = Tempered()
    assert model.linear_decoder is None
    halved = build(new(lambda base: base))
    with torch.no_grad():
        halved.decoder.output.weight *= 0.5
        halved.decoder.output.bias *= 0.5
    loss, expected = (iw.Objective(IWAE(), num_samples=K)(each, pixels(), seed=SEED) for each in (model, halved))
    torch.testing.assert_close(loss, expected)


def test_a_model_whose_likelihood_is_its_own_is_asked() -> None:
    torch.manual_seed(0)
    model, x = Weighted(D, (Z,), (H,)).double(), pixels()
    loss = iw.Objective(IWAE(), num_samples=K)(model, x, seed=SEED)
    torch.testing.assert_close(loss, -log_mean(model.log_weights(x, K, SEED)).mean())
    plain = iw.models.VAE(model.encoder, model.decoder)
    assert (loss - iw.Objective(IWAE(), num_samples=K)(plain, x, seed=SEED)).abs() > 1.0


@pytest.mark.parametrize("random", ["all", "encoder"])
def test_hooks_see_every_layer_of_random_weights(random: str) -> None:
    torch.manual_seed(0)
    model, x = iw.models.RandomWeightsVAE(D, Z, (H,), random=random, log_std=-60.0).double(), pixels()
    hooked: list[nn.Module] = []
    for module in (*model.encoder, *model.decoder.modules()):
        module.register_forward_hook(lambda module, _, __: hooked.append(module))
    objective = iw.Objective(IWAE(), num_samples=K)
    before = objective(model, x, seed=SEED)
    assert {id(module) for module in (*model.encoder, *model.decoder.modules())} == {id(module) for module in hooked}
    model.encoder[2].register_forward_hook(lambda _, __, output: 2.0 * output)
    doubled = copy.deepcopy(model)
    doubled.encoder[2]._forward_hooks.clear()
    with torch.no_grad():
        doubled.encoder[2].weight_mean *= 2.0
        doubled.encoder[2].bias_mean *= 2.0
    after, expected = objective(model, x, seed=SEED), objective(doubled, x, seed=SEED)
    torch.testing.assert_close(after, expected)
    assert (after - before).abs() > 1e-4
