"""Tests of gradient estimators: against their definitions, each other on average, and an exact model."""

from __future__ import annotations

import math

import plain_gradients
import pytest
import torch
from linear_gaussian import exact_log_likelihood, linear_gaussian, two_layer_linear_gaussian
from offered_settings import BOUNDS, CELLS, MODELS, K, away_from_the_optimum, cells, gradients, offered
from torch import Tensor

import iwae_fast as iw
from iwae_fast.bounds import CUBO, ELBO, IWAE, JVI, PIWAE, SUMO, TVO, VRIWAE, Bound
from iwae_fast.models.terms import LogQGradient
from iwae_fast.objectives.estimators import ESTIMATORS, value_and_scales
from iwae_fast.objectives.routing import GradientRouter, with_ratio

UNBIASED = ("reparameterized", "dreg", "gdreg")


@cells
def test_gradient_is_the_sum_over_samples_and_the_value_the_bound(name: str, bound: Bound, estimator: str) -> None:
    model, x = away_from_the_optimum(name)
    objective = iw.Objective(bound, estimator, num_samples=K)
    expected = plain_gradients.gradients(bound, estimator, K, model, x, 1)
    torch.testing.assert_close(gradients(objective, model, x, 1), expected)
    bound_of_call, k = bound.for_call(K, torch.tensor(1))
    value = bound_of_call(model.log_weights(x, k, 1)).detach()
    torch.testing.assert_close(objective(model, x, seed=1).detach(), -value.mean())
    torch.testing.assert_close(objective.last.value, value)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("bound", [IWAE(), PIWAE(2), TVO((0.0, 0.3)), CUBO(2)], ids=repr)
@pytest.mark.parametrize("name", ["one layer", "two layers", "three layers"])
def test_weighted_divergence(name: str, bound: Bound, estimator: str) -> None:
    if ESTIMATORS[estimator].only_iwae:
        with pytest.raises(ValueError, match="is valid only for"):
            iw.Objective(bound, estimator, num_samples=K, kl_weight=0.5)
        return
    if not offered(name, bound, estimator):
        return
    model, x = away_from_the_optimum(name)
    objective = iw.Objective(bound, estimator, num_samples=K, kl_weight=0.3)
    expected = plain_gradients.gradients(bound, estimator, K, model, x, 1, kl_weight=0.3)
    torch.testing.assert_close(gradients(objective, model, x, 1), expected)
    assert objective.last.kl_weight == 0.3


@pytest.mark.parametrize("build", [linear_gaussian, two_layer_linear_gaussian])
@pytest.mark.parametrize("bound", [b for b in BOUNDS if not isinstance(b, SUMO)], ids=repr)
def test_exact_posterior(bound: Bound, build: object) -> None:
    """Check that with equal weights pathwise gradients vanish for each sample, unlike the standard one."""
    model, x = build(data_dim=4, latent_dim=2), torch.randn(3, 4, dtype=torch.float64)
    for estimator in ESTIMATORS:
        try:
            objective = iw.Objective(bound, estimator, num_samples=K)
            objective.check_model(model)
        except ValueError:
            continue
        grads = dict(zip((n for n, _ in model.named_parameters()), gradients(objective, model, x, 1), strict=True))
        torch.testing.assert_close(objective.last.value, exact_log_likelihood(model, x).detach())
        encoder = torch.cat([g.flatten() for name, g in grads.items() if "encoder" in name])
        if estimator in ("reparameterized", "rws"):
            assert encoder.abs().max() > 1e-3
        else:  # VIMCO's signal is L - b_i - w_i = -1/k: a score, whose mean is zero
            assert encoder.abs().max() < 1e-12 or estimator == "vimco"
        assert max(g.abs().max() for name, g in grads.items() if name.startswith("decoder")) > 1e-3


def paired_t(name: str, bound: Bound, estimators: tuple[str, str], batches: int = 40) -> Tensor:
    """Compute Student's t of the mean difference of two estimators per parameter, over ``batches`` times 500 draws."""
    model, x = away_from_the_optimum(name)
    draws = x[:1].expand(500, 4)
    differences = []
    for seed in range(batches):
        ours, standard = (
            torch.cat([g.flatten() for g in gradients(iw.Objective(bound, e, num_samples=K), model, draws, seed)])
            for e in estimators
        )
        differences.append(ours - standard)
    stacked = torch.stack(differences)
    assert stacked.std(0).max() > 1e-6
    return stacked.mean(0) / (stacked.std(0) / batches**0.5 + 1e-9)


@pytest.mark.parametrize(
    ("name", "bound", "estimator"),
    [
        *(("one layer", bound, "dreg") for bound in BOUNDS if type(bound) not in (ELBO, PIWAE, JVI, SUMO)),
        *(("two layers", bound, e) for bound in (ELBO(), IWAE(), VRIWAE(0.4)) for e in ("dreg", "gdreg")),
        *(("three layers", IWAE(), e) for e in ("dreg", "gdreg")),
    ],
    ids=str,
)
def test_doubly_reparameterized_gradient_is_unbiased(name: str, bound: Bound, estimator: str) -> None:
    """Compare means over 10,000 draws with the bound's gradient, within 5 standard errors of the paired difference."""
    assert paired_t(name, bound, (estimator, "reparameterized"), batches=20).abs().max() < 5


def test_sticking_the_landing_is_biased_for_iwae() -> None:
    """Check that the test of unbiasedness detects the bias."""
    assert paired_t("one layer", IWAE(), ("stl", "reparameterized")).abs().max() > 8


def test_vimco_is_unbiased_for_two_binary_samples() -> None:
    """Compare with the gradient of E[L_2], summed over all pairs of the 8 latent states."""
    model, x = away_from_the_optimum("binary")
    x = x[:1]
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
    log_q = torch.stack([plain_gradients.log_q(model, x, [z[None]]) for z in states]).squeeze(1)
    log_p = torch.stack(
        [
            plain_gradients.log_likelihood(model, x, [z[None]]) + plain_gradients.log_prior(model, [z[None]])
            for z in states
        ]
    ).squeeze(1)
    pairs = torch.logaddexp((log_p - log_q)[:, None], (log_p - log_q)[None]) - math.log(2.0)
    expected_bound = ((log_q[:, None] + log_q[None]).exp() * pairs).sum()
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(-expected_bound, list(model.parameters()))])
    objective = iw.Objective(IWAE(), "vimco", num_samples=2)
    found = torch.stack(
        [torch.cat([g.flatten() for g in gradients(objective, model, x.expand(2000, 4), s)]) for s in range(40)]
    )
    assert ((found.mean(0) - exact).abs() < 5 * found.std(0) / 40**0.5 + 1e-12).all()


def test_vimco_where_weights_vanish() -> None:
    log_weights = torch.tensor([[0.0, -math.inf, 0.0], [-math.inf, -math.inf, -1.0], [-math.inf, -math.inf, -400.0]])
    _, scales = value_and_scales(ESTIMATORS["vimco"], IWAE(), log_weights, 1.0)
    expected = scales.decoder - plain_gradients.vimco_signal(log_weights[:, 2])[:, None]
    torch.testing.assert_close(scales.encoder[1:, 2], expected[1:, 2])
    assert scales.encoder.isfinite().all()  # of the first, the others weigh nothing: no baseline, no signal
    assert (scales.encoder[:, 1] == 0).all()


def test_a_decoder_scale_that_underflows_beside_an_encoder_scale() -> None:
    """Use a second group of PIWAE with negligible total weight, so that only decoder scales underflow."""
    model, x = away_from_the_optimum()
    model.float()
    x = x[:1].float()
    log_weights = torch.tensor([[0.0], [-1.0], [-200.0], [-201.0]])
    _, scales = value_and_scales(ESTIMATORS["dreg"], PIWAE(2), log_weights, 1.0)
    assert scales.decoder[2] == 0
    assert scales.encoder[2] > 0.1
    z = torch.ones(4, 1, 2, requires_grad=True)
    router = GradientRouter()
    seen, _, _ = router(z)
    (decoder, _), ratio = with_ratio(scales, 2.0**-24)
    weighed, messenger = (seen.sum(-1) * decoder).sum(), router.messenger(decoder)
    torch.autograd.backward([weighed, messenger], [torch.tensor(1.0), ratio])
    torch.testing.assert_close(z.grad, scales.encoder[..., None].expand(4, 1, 2))


def test_upper_layers_that_change_are_refused_where_they_run_twice() -> None:
    def network() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Dropout(0.5), iw.models.dense.GaussianNetwork(2, (3,), 2))

    one = iw.models.DenseVAE(4, (2,), (3,))
    model, x = iw.models.VAE(one.encoder, one.decoder, upper=[(network(), network())]), torch.rand(3, 4)
    for estimator in ("stl", "dreg", "gdreg"):
        with pytest.raises(ValueError, match=rf"0.encoder.0 \(Dropout\) .* but estimator '{estimator}' runs"):
            iw.Objective(IWAE(), estimator, num_samples=3)(model, x)
    iw.Objective(IWAE(), num_samples=3)(model, x)
    model.eval()
    iw.Objective(IWAE(), "gdreg", num_samples=3)(model, x)


@pytest.mark.parametrize("estimator", ["dreg", "rws"])
def test_second_derivatives_raise(estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect the error with the reference too, although its operations are twice differentiable."""
    monkeypatch.setenv("IWAE_FAST_BACKEND", "reference")
    model, x = away_from_the_optimum()
    parameters = list(model.parameters())
    for options in ({}, {"budget": 2}):
        loss = iw.Objective(IWAE(), estimator, num_samples=4, **options)(model, x, seed=1)
        first = torch.autograd.grad(loss, parameters, create_graph=True)
        with pytest.raises(RuntimeError, match="second derivatives of fused ops and of gradient estimators"):
            sum(g.square().sum() for g in first).backward()


def test_transforms() -> None:
    """Test torch.func.grad, also with a budget and with several layers."""
    model, x = away_from_the_optimum("two layers")
    parameters = dict(model.named_parameters())
    for options in ({}, {"estimator": "gdreg"}, {"estimator": "dreg", "budget": 2}, {"estimator": "rws"}):
        objective = iw.Objective(IWAE(), num_samples=4, **options)
        bound = objective.bind(model)

        def loss(parameters: dict[str, Tensor], bound: torch.nn.Module = bound) -> Tensor:
            named = {f"model.{name}": p for name, p in parameters.items()}
            return torch.func.functional_call(bound, named, (x,), {"seed": 1})

        expected = gradients(objective, model, x, 1)
        torch.testing.assert_close(list(torch.func.grad(loss)(parameters).values()), expected)


def test_an_encoder_that_descends_an_upper_bound_finds_the_posterior() -> None:
    """Check that the encoder finds the posterior; ascending the bound would widen it without limit."""
    model, x = away_from_the_optimum()
    exact = {n: p.detach().clone() for n, p in linear_gaussian(4, 2).encoder.named_parameters()}
    objective, optimizer = (
        iw.Objective(CUBO(2), "dreg", num_samples=50),
        torch.optim.Adam(model.encoder.parameters(), 0.02),
    )
    x = torch.randn(100, 4, dtype=torch.float64)
    for step in range(300):
        optimizer.zero_grad()
        objective(model, x, seed=step).backward()
        optimizer.step()
    for n, p in model.encoder.named_parameters():
        torch.testing.assert_close(p.detach(), exact[n], atol=0.05, rtol=0)


def test_one_weight_that_takes_everything() -> None:
    """Check that gradients stay finite where scales underflow and log-weights are -inf."""
    models = {}
    for name in ("one layer", "two layers"):
        models[name], x = away_from_the_optimum(name)
        models[name].float()
        with torch.no_grad():
            models[name].encoder.log_std += 4.0
    for name, bound, estimator in CELLS:
        if name not in models:
            continue
        model = models[name]
        objective = iw.Objective(bound, estimator, num_samples=K)
        for gradient in gradients(objective, model, 30.0 * x.float(), 2):
            assert gradient.isfinite().all(), (bound, estimator)


@pytest.mark.parametrize("estimator", [name for name, e in ESTIMATORS.items() if e.only_iwae])
def test_estimators_of_iwae_refuse_other_bounds(estimator: str) -> None:
    for bound in (ELBO(), PIWAE(2), VRIWAE(0.5)):
        with pytest.raises(ValueError, match=f"estimator '{estimator}' is valid only for IWAE, got"):
            iw.Objective(bound, estimator, num_samples=K)


def test_estimators_that_do_not_suit_the_model() -> None:
    binary, one = MODELS["binary"](), MODELS["one layer"]()
    x = torch.zeros(1, 4, dtype=torch.float64)
    for name, estimator in ESTIMATORS.items():
        if estimator.log_q_gradient is not LogQGradient.SCORE:
            objective = iw.Objective(IWAE(), name, num_samples=K)
            with pytest.raises(ValueError, match=f"{name}' differentiates through z, which BernoulliVAE does not"):
                objective(binary, x)
            with pytest.raises(ValueError, match="use one of rws, vimco"):
                objective.bind(binary)
    with pytest.raises(ValueError, match="'gdreg' requires learned conditional priors between layers"):
        iw.Objective(IWAE(), "gdreg", num_samples=K).bind(one)
    for bound in (JVI(1), PIWAE(2), CUBO(2), SUMO()):
        with pytest.raises(ValueError, match="'gdreg' needs a bound that both networks ascend"):
            iw.Objective(bound, "gdreg", num_samples=K)
    with pytest.raises(ValueError, match="'vimco' needs k >= 2 samples, got k = 1"):
        iw.Objective(IWAE(), "vimco", num_samples=1)
    with pytest.raises(TypeError, match="model must be one of iwae_fast.models, .* got Linear"):
        iw.Objective(IWAE(), num_samples=2)(torch.nn.Linear(4, 4), x)


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
