"""Tests of random network weights (IWAER): explicit log-weights, two ways to draw, and estimators that train them."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

import iwae_fast as iw
from iwae_fast.models.random_weights import DECODER_STREAM, ENCODER_STREAM
from iwae_fast.reference import bernoulli_log_prob, gaussian_log_prob, standard_gaussian_log_prob

D, Z, H, K, B = 7, 2, 5, 4, 3
LOWER = [
    iw.bounds.ELBO(),
    iw.bounds.IWAE(),
    iw.bounds.VRIWAE(0.0),
    iw.bounds.VRIWAE(0.6),
    iw.bounds.MIWAE(2),
    iw.bounds.CIWAE(0.3),
    iw.bounds.PIWAE(2),
]
OTHERS = [iw.bounds.CUBO(), iw.bounds.VRIWAE(-0.5), iw.bounds.JVI(1), iw.bounds.SUMO(), iw.bounds.TVO()]


def build(random: str = "all", draws: str = "local", log_std: float = -1.0) -> iw.models.RandomWeightsVAE:
    """Return a model with different standard deviations, large enough to affect the results."""
    torch.manual_seed(5)
    model = iw.models.RandomWeightsVAE(D, Z, (H,), random=random, draws=draws, log_std=log_std).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("log_std", "bias", "bias_mean")):
                parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def pixels() -> torch.Tensor:
    return (torch.rand(B, D, generator=torch.Generator().manual_seed(2)) < 0.5).double()


def by_hand(model: iw.models.RandomWeightsVAE, x: torch.Tensor, i: int, seed: int) -> torch.Tensor:
    """Compute log w_i of sample i, drawing weights or layer outputs one by one."""

    def noise(rows: int, columns: int, stream: int) -> torch.Tensor:
        shape = (1, rows, columns)
        return iw.standard_normal(shape, seed, sample_offset=i, stream=stream, dtype=torch.float64).squeeze(0)

    def network(network: torch.nn.Module, value: torch.Tensor, first: int) -> torch.Tensor:
        for index in (0, 2):
            layer = network[index]
            sd, bias_sd = layer.weight_log_std.exp(), layer.bias_log_std.exp()
            if model.local:
                mean = value @ layer.weight_mean.T + layer.bias_mean
                variance = value**2 @ (sd**2).T + bias_sd**2
                value = mean + variance.sqrt() * noise(*mean.shape, first + index)
            else:
                eps = noise(len(sd), sd.shape[1] + 1, first + index)
                value = value @ (layer.weight_mean + sd * eps[:, :-1]).T + layer.bias_mean + bias_sd * eps[:, -1]
            if index == 0:
                value = torch.tanh(value)
        return value

    mean, log_std = network(model.encoder, x, ENCODER_STREAM).chunk(2, dim=-1)
    z = mean + log_std.exp() * noise(B, Z, 0)
    if isinstance(model.decoder, iw.models.LinearOutput):
        logits = model.decoder(z)
    else:
        logits = network(model.decoder, z, DECODER_STREAM)
    return bernoulli_log_prob(x, logits) + standard_gaussian_log_prob(z) - gaussian_log_prob(z, mean, log_std)


@pytest.mark.parametrize("random", ["all", "encoder"])
@pytest.mark.parametrize("draws", ["local", "shared"])
def test_log_weights_are_the_definition_written_out(random: str, draws: str) -> None:
    model, x = build(random, draws), pixels()
    expected = torch.stack([by_hand(model, x, i, 9) for i in range(K)])
    torch.testing.assert_close(model.log_weights(x, K, 9), expected)
    parts = [model.log_weights(x, 2, 9, sample_offset=first) for first in (0, 2)]
    torch.testing.assert_close(torch.cat(parts), expected)


@pytest.mark.parametrize("draws", ["local", "shared"])
def test_a_layer_has_the_moments_of_its_weights(draws: str) -> None:
    """Compare mean and variance of a layer's output over draws of its weights; if shared, over samples."""
    model, x, draws_of_weights = build(draws=draws), torch.rand(2, D, dtype=torch.float64), 40000
    layer = model.encoder[0]
    seed = torch.tensor(3)

    def noise(shape: tuple[int, int, int]) -> torch.Tensor:
        return iw.standard_normal(shape, seed, dtype=torch.float64)

    drawn = getattr(layer, draws)(x, noise, draws_of_weights).detach()
    mean, variance = layer(x), x**2 @ (2 * layer.weight_log_std).exp().T + (2 * layer.bias_log_std).exp()
    error = (variance / draws_of_weights).sqrt()
    assert ((drawn.mean(0) - mean).abs() < 5 * error).all()
    assert ((drawn.var(0) / variance - 1).abs() < 5 * (2 / draws_of_weights) ** 0.5).all()


@pytest.mark.parametrize("draws", ["local", "shared"])
def test_without_variance_it_is_the_network_of_the_means(draws: str) -> None:
    model, x = iw.models.RandomWeightsVAE(D, Z, (H,), draws=draws, log_std=-60.0).double(), pixels()
    plain = iw.models.DenseVAE(D, (Z,), (H,)).double()
    up, head, down, output = model.encoder[0], model.encoder[2], model.decoder[0], model.decoder[2]
    with torch.no_grad():
        for target, source in (
            (plain.encoder.hidden[0], up),
            (plain.decoder.hidden[0], down),
            (plain.decoder.output, output),
        ):
            target.weight.copy_(source.weight_mean)
        plain.encoder.mean.weight.copy_(head.weight_mean[:Z])
        plain.encoder.log_std.weight.copy_(head.weight_mean[Z:])
    torch.testing.assert_close(model.log_weights(x, K, 9), plain.log_weights(x, K, 9))
    torch.testing.assert_close(model.reconstruct(x), plain.reconstruct(x))


@pytest.mark.parametrize("random", ["all", "encoder"])
@pytest.mark.parametrize("draws", ["local", "shared"])
def test_gradcheck(random: str, draws: str) -> None:
    model, x = build(random, draws), pixels()
    names, values = zip(*model.named_parameters(), strict=True)

    class LogWeights(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> torch.Tensor:
            return self.model.log_weights(x, 2, 9)

    module = LogWeights()

    def log_weights(*parameters: torch.Tensor) -> torch.Tensor:
        return functional_call(module, {f"model.{n}": p for n, p in zip(names, parameters, strict=True)}, ())

    assert torch.autograd.gradcheck(log_weights, tuple(v.detach().requires_grad_() for v in values), fast_mode=True)


@pytest.mark.parametrize("bound", LOWER, ids=repr)
@pytest.mark.parametrize("random", ["all", "encoder"])
def test_means_and_variances_are_trained_by_lower_bounds(bound: iw.bounds.Bound, random: str) -> None:
    model, x = build(random), pixels()
    objective = iw.Objective(bound, num_samples=K)
    loss = objective(model, x, seed=1)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    torch.testing.assert_close(loss.detach(), -bound(model.log_weights(x, K, 1).detach()).mean())


@pytest.mark.parametrize("bound", OTHERS, ids=repr)
def test_other_bounds_are_refused(bound: iw.bounds.Bound) -> None:
    with pytest.raises(ValueError, match="random weights require a bound"):
        iw.Objective(bound, num_samples=K)(build(), pixels())


@pytest.mark.parametrize("estimator", ["stl", "dreg"])
def test_chunks_and_estimators(estimator: str) -> None:
    model, x = build(), pixels()
    gradients = []
    for options in ({}, {"chunk_size": 3}, {"budget": K}):
        model.zero_grad()
        iw.Objective(iw.bounds.IWAE(), estimator, num_samples=K, **options)(model, x, seed=1).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])


def test_dreg_and_a_budget_have_no_bias() -> None:
    model, x = build(log_std=-2.0), pixels()
    exact = iw.Objective(iw.bounds.IWAE(), num_samples=6)
    for objective in (
        iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=6),
        iw.Objective(iw.bounds.IWAE(), num_samples=6, budget=2),
    ):
        assert not iw.check_estimator(objective, model, x, reference=exact, num_draws=100, seed=0).biased()


def test_a_score_and_shared_draws_with_a_budget_are_refused() -> None:
    with pytest.raises(ValueError, match="does not have a gradient for the distribution of random weights"):
        iw.Objective(iw.bounds.IWAE(), "rws", num_samples=K)(build(), pixels())
    with pytest.raises(ValueError, match="draws='local'"):
        iw.Objective(iw.bounds.IWAE(), num_samples=K, budget=2)(build(draws="shared"), pixels())
    with pytest.raises(ValueError, match="does not take context, got a context of length 1"):
        build().log_weights(pixels(), K, context=(torch.zeros(B, 1),))
    with pytest.raises(ValueError, match="random must be one of all, encoder"):
        iw.models.RandomWeightsVAE(D, random="decoder")
    with pytest.raises(ValueError, match="draws must be one of local, shared"):
        iw.models.RandomWeightsVAE(D, draws="each")
    with pytest.raises(ValueError, match="hidden_dims must be at least 1"):
        iw.models.RandomWeightsVAE(D, hidden_dims=(0,))


@pytest.mark.parametrize("draws", ["local", "shared"])
@pytest.mark.parametrize("random", ["all", "encoder"])
def test_half_precision_and_autocast(random: str, draws: str) -> None:
    model, x = build(random, draws, log_std=-4.0).float(), pixels().float()
    exact = iw.Objective(iw.bounds.IWAE(), num_samples=K)(model, x, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        cast = iw.Objective(iw.bounds.IWAE(), num_samples=K)(model, x, seed=1)
    cast.backward()
    half = iw.Objective(iw.bounds.IWAE(), num_samples=K)(model.bfloat16(), x.bfloat16(), seed=1)
    half.backward()
    for found in (cast, half):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.detach(), exact.detach(), rtol=0.05, atol=0.2)


def test_observations_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=rf"x must be \(B, ...\) with {D} features, got \({B}, {D - 2}\)"):
        iw.Objective(iw.bounds.IWAE(), num_samples=K)(build(), pixels()[:, :-2])


def test_evaluation_draws_weights_afresh_and_streams() -> None:
    model, x = build(), pixels()
    found = iw.evaluate.log_likelihood(model, x, 30, chunk_size=7, seed=4)
    expected = torch.logsumexp(model.log_weights(x, 30, 4).detach(), 0) - torch.log(torch.tensor(30.0).double())
    torch.testing.assert_close(found.value, expected)
    assert not torch.equal(found.value, iw.evaluate.log_likelihood(model, x, 30, seed=5).value)
    assert model.sample(3, seed=0).shape == (3, D)
    assert model.reconstruct(x).shape == x.shape


def test_a_mask_hides_what_it_hides() -> None:
    model, x = build(), pixels()
    mask = torch.tensor([True] * (D - 2) + [False] * 2)
    hidden = torch.where(mask, x, torch.nan)
    torch.testing.assert_close(
        model.log_weights(hidden, K, 1, mask=mask), model.log_weights(torch.where(mask, x, 0.0), K, 1, mask=mask)
    )


def test_compiled() -> None:
    model, x = build().float(), pixels().float()
    bound = iw.Objective(iw.bounds.IWAE(), num_samples=K).bind(model)
    torch._dynamo.reset()
    compiled = torch.compile(bound, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, seed=torch.tensor(1)), bound(x, seed=torch.tensor(1)))
