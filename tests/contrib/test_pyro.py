"""Tests of the objective for Pyro against Pyro's own, and against estimators written out with autograd."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from paths import ROOT
from torch import Tensor, nn
from torch.distributions import Distribution

pytest.importorskip("pyro", reason="pyro-ppl, of the extra pyro, is not installed")

import pyro
import pyro.distributions as dist
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal

import iwae_fast as iw
from iwae_fast.contrib.pyro import IWAE_ELBO
from iwae_fast.objectives.estimators import ESTIMATORS

K, BATCH, SIZE, LATENT = 7, 5, 6, 2
PROGRAMS = ("one latent variable", "two layers")


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Compute in float64, with the validation that torch.compile turns off for the rest of the process."""
    torch.set_default_dtype(torch.float64)
    validation = Distribution._validate_args
    with pyro.validation_enabled():
        yield
    Distribution.set_default_validate_args(validation)
    pyro.clear_param_store()
    torch.set_default_dtype(torch.float32)


def observations(count: int = BATCH) -> Tensor:
    return (torch.rand(count, SIZE, generator=torch.Generator().manual_seed(3)) < 0.5).double()


class Programs:
    """A model and its guide, in Pyro and as functions of the guide's noise."""

    def __init__(self, layers: int = 1) -> None:
        torch.manual_seed(0)
        self.layers = layers
        self.encoders = nn.ModuleList(nn.Linear(size, 2 * LATENT) for size in (SIZE, LATENT)[:layers])
        self.decoder, self.prior = nn.Linear(LATENT, SIZE), nn.Linear(LATENT, LATENT)

    @property
    def parameters(self) -> list[nn.Parameter]:
        networks = (self.encoders, self.decoder, *([self.prior] if self.layers == 2 else []))
        return [p for network in networks for p in network.parameters()]

    def prior_of(self, parent: Tensor | None) -> Tensor:
        return torch.zeros(LATENT) if parent is None else self.prior(parent)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        pyro.module("prior", self.prior)
        with pyro.plate("data", len(x)):
            parent = None
            for layer in reversed(range(self.layers)):
                normal = dist.Normal(self.prior_of(parent), torch.ones(LATENT)).to_event(1)
                parent = pyro.sample(f"z{layer}", normal)
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(parent)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoders", self.encoders)
        value = x
        with pyro.plate("data", len(x)):
            for layer, encoder in enumerate(self.encoders):
                mean, log_std = encoder(value).chunk(2, -1)
                value = pyro.sample(f"z{layer}", dist.Normal(mean, log_std.exp()).to_event(1))

    def noise(self, x: Tensor, seed: int) -> list[Tensor]:
        """Return the standard normal noise that the guide draws with this seed."""
        torch.manual_seed(seed)
        shape = K, len(x), LATENT
        return [torch.normal(torch.zeros(shape), torch.ones(shape)) for _ in self.encoders]

    def log_densities(self, x: Tensor, noise: list[Tensor], hold: str | None = None) -> tuple[Tensor, Tensor, list]:
        """Return log p(x, z) and log q(z | x), (k, B), and all z.

        ``hold`` is "parameters" to hold the parameters fixed in log q, or "z" to hold all z fixed.
        """
        z: list[Tensor] = []
        log_q = torch.zeros(())
        value = x
        for encoder, eps in zip(self.encoders, noise, strict=True):
            mean, log_std = encoder(value).chunk(2, -1)
            sample = mean + log_std.exp() * eps
            sample = sample.detach() if hold == "z" else sample
            if hold == "parameters":
                fixed = {name: p.detach() for name, p in encoder.named_parameters()}
                mean, log_std = torch.func.functional_call(encoder, fixed, (value,)).chunk(2, -1)
            log_q = log_q + torch.distributions.Normal(mean, log_std.exp()).log_prob(sample).sum(-1)
            z.append(sample)
            value = sample
        log_p = -nn.functional.binary_cross_entropy_with_logits(
            self.decoder(z[0]), x.expand(K, *x.shape), reduction="none"
        ).sum(-1)
        for child, parent in zip(z, [*z[1:], None], strict=True):
            log_p = log_p + torch.distributions.Normal(self.prior_of(parent), 1.0).log_prob(child).sum(-1)
        return log_p, log_q, z

    def gradient(self, x: Tensor, estimator: str, bound: iw.bounds.Bound, seed: int) -> tuple[float, list[Tensor]]:
        """Return the loss and its estimated gradient, by one pass of autograd for each network."""
        how = ESTIMATORS[estimator]
        hold = {"PATHWISE": "parameters", "SCORE": "z", "FULL": None}[how.log_q_gradient.name]
        log_p, log_q, _ = self.log_densities(x, self.noise(x, seed), hold)
        value, (decoder, encoder) = iw.objectives.estimators.value_and_scales(how, bound, (log_p - log_q).detach(), 1.0)
        of_encoder = list(self.encoders.parameters())
        others = [p for p in self.parameters if all(p is not own for own in of_encoder)]
        by_encoder = -(encoder * (-log_q if hold == "z" else log_p - log_q)).sum()
        gradients = [
            *torch.autograd.grad(by_encoder, of_encoder, retain_graph=True),
            *torch.autograd.grad(-(decoder * log_p).sum(), others),
        ]
        return -value.sum().item(), gradients


def step(
    loss: Any, model: Callable, guide: Callable, parameters: list[nn.Parameter], *data: Any, seed: int = 1
) -> tuple[float, list[Tensor]]:
    """Return the value and the gradients of a Pyro objective."""
    for parameter in parameters:
        parameter.grad = None
    torch.manual_seed(seed)
    value = loss.loss_and_grads(model, guide, *data)
    return value, [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]


def assert_same(found: tuple[float, list[Tensor]], expected: tuple[float, list[Tensor]]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-10)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("layers", [1, 2], ids=PROGRAMS)
def test_iwae_is_renyi_of_order_zero(layers: int) -> None:
    given, x = Programs(layers), observations()
    renyi = RenyiELBO(alpha=0, num_particles=K, vectorize_particles=True, max_plate_nesting=1)
    ours = IWAE_ELBO(K, max_plate_nesting=1)
    expected = step(renyi, given.model, given.guide, given.parameters, x)
    assert_same(step(ours, given.model, given.guide, given.parameters, x), expected)
    torch.manual_seed(1)
    assert ours.loss(given.model, given.guide, x) == pytest.approx(expected[0], rel=1e-12)


def test_elbo_is_trace_elbo() -> None:
    given, x = Programs(), observations()
    trace = Trace_ELBO(num_particles=K, vectorize_particles=True, max_plate_nesting=1)
    ours = IWAE_ELBO(K, iw.bounds.ELBO(), max_plate_nesting=1)
    assert_same(*(step(loss, given.model, given.guide, given.parameters, x) for loss in (ours, trace)))


@pytest.mark.parametrize("k", [1, 3])
def test_few_particles(k: int) -> None:
    given, x = Programs(), observations()
    trace = Trace_ELBO(num_particles=k, vectorize_particles=True, max_plate_nesting=1)
    ours = IWAE_ELBO(k, iw.bounds.ELBO(), max_plate_nesting=1)
    assert_same(*(step(loss, given.model, given.guide, given.parameters, x) for loss in (ours, trace)))


@pytest.mark.parametrize("layers", [1, 2], ids=PROGRAMS)
@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name != "gdreg"])
def test_every_estimator(estimator: str, layers: int) -> None:
    given, x, bound = Programs(layers), observations(), iw.bounds.IWAE()
    found = step(IWAE_ELBO(K, bound, estimator, max_plate_nesting=1), given.model, given.guide, given.parameters, x)
    assert_same(found, given.gradient(x, estimator, bound, 1))


@pytest.mark.parametrize(
    "bound", [iw.bounds.VRIWAE(0.3), iw.bounds.CIWAE(0.4), iw.bounds.JVI(1), iw.bounds.PIWAE(7), iw.bounds.CUBO(2.0)]
)
@pytest.mark.parametrize("estimator", ["reparameterized", "stl", "dreg"])
def test_other_bounds(bound: iw.bounds.Bound, estimator: str) -> None:
    given, x = Programs(2), observations()
    found = step(IWAE_ELBO(K, bound, estimator, max_plate_nesting=1), given.model, given.guide, given.parameters, x)
    assert_same(found, given.gradient(x, estimator, bound, 1))


@pytest.mark.parametrize("estimator", ["reparameterized", "dreg", "rws"])
def test_a_budget_of_all_that_have_weight_is_exact(estimator: str) -> None:
    """Check that particles are weighted and routed as without a budget, where all that have a weight run."""
    given, x = Programs(2), observations()
    first = [0, 2, 5]

    def largest_three(log_weights: Tensor) -> Tensor:
        keep = torch.zeros(K, 1).index_fill(0, torch.tensor(first), 1.0)
        return torch.where(keep.bool(), log_weights, -torch.inf)

    class Some(iw.bounds.IWAE):
        """IWAE of three of the particles."""

        is_log_mean_exp = True

        def __call__(self, log_weights: Tensor) -> Tensor:
            return super().__call__(largest_three(log_weights))

        def coefficients(self, log_weights: Tensor) -> iw.bounds.base.Coefficients:
            return super().coefficients(largest_three(log_weights))

    options = {"bound": Some(), "estimator": estimator, "max_plate_nesting": 1}
    expected = step(IWAE_ELBO(K, **options), given.model, given.guide, given.parameters, x)
    found = step(IWAE_ELBO(K, **options, budget=4), given.model, given.guide, given.parameters, x)
    assert_same(found, expected)


def test_a_budget_is_unbiased() -> None:
    """Average over the draws of a budget, with particles that stay the same."""
    given, x = Programs(), observations()
    noise = torch.randn(K, BATCH, LATENT, generator=torch.Generator().manual_seed(5))

    def guide(x: Tensor) -> None:
        mean, log_std = given.encoders[0](x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z0", dist.Delta(mean + log_std.exp() * noise, event_dim=1))

    exact = step(IWAE_ELBO(K, max_plate_nesting=1), given.model, guide, given.parameters, x)[1]
    loss = IWAE_ELBO(K, budget=2, max_plate_nesting=1)
    draws = [step(loss, given.model, guide, given.parameters, x, seed=seed)[1] for seed in range(300)]
    for index, expected in enumerate(exact):
        found = torch.stack([draw[index] for draw in draws])
        error = found.std(0) / len(found) ** 0.5
        assert float(((found.mean(0) - expected).abs() / (error + 1e-9)).max()) < 5.0


def test_only_the_budget_runs_backward() -> None:
    given, x = Programs(), observations()
    rows = []
    given.decoder.register_forward_hook(lambda *call: rows.append((len(call[2]), call[2].requires_grad)))
    step(IWAE_ELBO(K, budget=2, max_plate_nesting=1), given.model, given.guide, given.parameters, x)
    assert rows == [(K, False), (2, True)]


def test_subsampling_scales_the_bound_and_not_its_weights() -> None:
    """Compare the average over all subsamples with the loss of all data."""
    given, x = Programs(), observations(4)

    def model(x: Tensor, index: Tensor) -> None:
        with pyro.plate("data", 4, subsample=index):
            z = pyro.sample("z0", dist.Normal(torch.zeros(LATENT), torch.ones(LATENT)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=given.decoder(z)).to_event(1), obs=x[index])

    def guide(x: Tensor, index: Tensor) -> None:
        mean, _ = given.encoders[0](x[index]).chunk(2, -1)
        with pyro.plate("data", 4, subsample=index):
            pyro.sample("z0", dist.Delta(mean + noise[:, index], event_dim=1))

    noise = torch.randn(K, 4, LATENT)
    for estimator in ("reparameterized", "stl"):
        loss = IWAE_ELBO(K, estimator=estimator, max_plate_nesting=1)
        whole = step(loss, model, guide, given.parameters, x, torch.arange(4))
        parts = [step(loss, model, guide, given.parameters, x, torch.tensor([i, i + 1])) for i in (0, 2)]
        mean = [torch.stack(each).mean(0) for each in zip(*(part[1] for part in parts), strict=True)]
        assert_same((sum(part[0] for part in parts) / 2, mean), whole)


@pytest.mark.parametrize("estimator", ["reparameterized", "stl", "dreg"])
@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal])
def test_autoguides_and_global_variables(guide: Any, estimator: str) -> None:
    """Check a model with a global latent variable: one bound for all data, as RenyiELBO computes it."""
    x = torch.randn(8, generator=torch.Generator().manual_seed(0)) + 1.0

    def model(x: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(2.0, 2.0))
        with pyro.plate("data", len(x)):
            local = pyro.sample("local", dist.Normal(rate, 1.0))
            pyro.sample("x", dist.Normal(local, 0.5), obs=x)

    auto = guide(model, init_loc_fn=pyro.infer.autoguide.init_to_median(num_samples=3))
    auto(x)
    parameters = list(auto.parameters())
    found = step(IWAE_ELBO(5, estimator=estimator, max_plate_nesting=1), model, auto, parameters, x)
    renyi = RenyiELBO(alpha=0, num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    expected = step(renyi, model, auto, parameters, x)
    assert found[0] == pytest.approx(expected[0], rel=1e-10)
    if estimator == "reparameterized":
        assert_same(found, expected)
    elif (
        estimator == "stl" and guide is AutoNormal
    ):  # for k = 1 the score that it omits is zero on average, so both have one mean
        draws = 150
        means = []
        for loss in (IWAE_ELBO(1, estimator="stl", max_plate_nesting=1), IWAE_ELBO(1, max_plate_nesting=1)):
            each = [torch.cat([g.flatten() for g in step(loss, model, auto, parameters, x, seed=s)[1]])
                    for s in range(draws)]  # fmt: skip
            means.append((torch.stack(each).mean(0), torch.stack(each).std(0) / draws**0.5))
        (a, error_a), (b, error_b) = means
        assert bool(((a - b).abs() <= 5.0 * (error_a.square() + error_b.square()).sqrt() + 1e-9).all())


def test_dreg_of_a_global_variable_is_that_of_the_package() -> None:
    """Check a mean-field guide of two variables against the estimator written out."""
    loc, log_std = torch.zeros(2, requires_grad=True), torch.full((2,), -0.5, requires_grad=True)
    x = torch.tensor([0.3, -0.2, 1.1])

    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", 3):
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide() -> None:
        pyro.sample("z", dist.Normal(loc, log_std.exp()).to_event(1))

    found = step(IWAE_ELBO(K, estimator="dreg", max_plate_nesting=1), model, guide, [loc, log_std])
    torch.manual_seed(1)
    eps = torch.normal(torch.zeros(K, 1, 2), torch.ones(K, 1, 2)).squeeze(1)
    z = loc + log_std.exp() * eps
    normal = torch.distributions.Normal
    log_p = normal(0.0, 1.0).log_prob(z).sum(-1) + normal(z.sum(-1, keepdim=True), 1.0).log_prob(x).sum(-1)
    log_w = log_p - normal(loc.detach(), log_std.detach().exp()).log_prob(z).sum(-1)
    w = torch.softmax(log_w.detach(), 0)
    gradients = torch.autograd.grad(-(w.square() * log_w).sum(), [loc, log_std])
    expected = (torch.tensor(float(K)).log() - torch.logsumexp(log_w, 0)).item()
    assert_same(found, (expected, list(gradients)))


@pytest.mark.parametrize("estimator", ["reparameterized", "dreg"])
def test_an_observation_outside_the_plate_of_the_guide(estimator: str) -> None:
    """Check that one observed site of the model outside the plate that contains the whole guide joins all weights."""
    loc, weight = nn.Parameter(torch.tensor([0.2, -0.4, 0.9])), nn.Parameter(torch.tensor(0.6))

    def model() -> None:
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("total", dist.Normal(weight * z.sum(-1, keepdim=True), 1.0), obs=torch.tensor(1.5))

    def guide() -> None:
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Normal(loc, 0.7))

    found = step(IWAE_ELBO(K, estimator=estimator, max_plate_nesting=1), model, guide, [loc, weight])
    torch.manual_seed(1)
    normal = torch.distributions.Normal
    z = loc + 0.7 * torch.normal(torch.zeros(K, 3), torch.ones(K, 3))
    log_p = normal(0.0, 1.0).log_prob(z).sum(-1) + normal(weight * z.sum(-1), 1.0).log_prob(torch.tensor(1.5))
    log_w = log_p - normal(loc.detach() if estimator == "dreg" else loc, 0.7).log_prob(z).sum(-1)
    w = torch.softmax(log_w.detach(), 0)
    scale = w.square() if estimator == "dreg" else w
    (by_loc,) = torch.autograd.grad(-(scale * log_w).sum(), [loc], retain_graph=True)
    (by_weight,) = torch.autograd.grad(-(w * log_p).sum(), [weight])
    value = (torch.tensor(float(K)).log() - torch.logsumexp(log_w, 0)).item()
    assert_same(found, (value, [by_loc, by_weight]))


def test_plates_in_plates() -> None:
    """Check a plate of groups, which all sites share, around one of members, which is summed."""
    weight = nn.Parameter(torch.tensor(0.7))
    x = torch.randn(2, 3)  # members, groups

    def model(x: Tensor) -> None:
        with pyro.plate("groups", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("members", 2, dim=-2):
                pyro.sample("x", dist.Normal(weight * z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("groups", 3, dim=-1):
            pyro.sample("z", dist.Normal(weight * x.mean(0), 0.8))

    found = step(IWAE_ELBO(4, max_plate_nesting=2), model, guide, [weight], x)
    torch.manual_seed(1)
    eps = torch.normal(torch.zeros(4, 1, 3), torch.ones(4, 1, 3)).squeeze(1)
    normal = torch.distributions.Normal
    z = weight * x.mean(0) + 0.8 * eps
    log_w = normal(0.0, 1.0).log_prob(z) - normal(weight * x.mean(0), 0.8).log_prob(z)
    log_w = log_w + normal((weight * z)[:, None], 1.0).log_prob(x).sum(1)
    loss = -(torch.logsumexp(log_w, 0) - torch.tensor(4.0).log()).sum()
    assert_same(found, (loss.item(), list(torch.autograd.grad(loss, [weight]))))


def test_masked_and_scaled_sites() -> None:
    given, x = Programs(), observations()
    seen = torch.tensor([True, False, True, True, False])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)), poutine.mask(mask=seen), poutine.scale(scale=0.5):
            z = pyro.sample("z0", dist.Normal(torch.zeros(LATENT), torch.ones(LATENT)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=given.decoder(z)).to_event(1), obs=x)

    masked_guide = poutine.mask(poutine.scale(given.guide, scale=0.5), mask=seen)
    renyi = RenyiELBO(alpha=0, num_particles=K, vectorize_particles=True, max_plate_nesting=1)
    for fn in (renyi, IWAE_ELBO(K, max_plate_nesting=1)):
        results = [step(each, model, masked_guide, given.parameters, x) for each in (fn, renyi)]
        assert_same(*results)


def test_svi_and_the_module_learn() -> None:
    x = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 0.5 + 2.0

    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 0.5), obs=x)

    guide = AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss=IWAE_ELBO(8, estimator="dreg"))
    losses = [svi.step(x) for _ in range(300)]
    assert losses[-1] < losses[0] - 50.0
    assert guide.median()["mean"].item() == pytest.approx(x.mean().item(), abs=0.05)
    assert svi.evaluate_loss(x) == pytest.approx(losses[-1], abs=2.0)
    module = IWAE_ELBO(8)(pyro.nn.PyroModule(), AutoDelta(model))
    assert isinstance(module, nn.Module)


def test_the_page() -> None:
    """Run the code of docs/pyro.md."""
    torch.set_default_dtype(torch.float32)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "pyro.md").read_text(), re.DOTALL)
    exec(code, {})


def test_discrete_variables_need_the_score() -> None:
    logits, weight = nn.Parameter(torch.zeros(SIZE)), nn.Parameter(torch.ones(()))
    x = observations()[:, :1].squeeze(1)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Bernoulli(logits=weight * (2.0 * z - 1.0)), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logits[0] + x))

    with pytest.raises(ValueError, match="through latent site 'z', but Bernoulli is not reparameterized: use one of"):
        IWAE_ELBO(4, estimator="dreg").loss_and_grads(model, guide, x)
    _, (by_logits, by_weight) = step(IWAE_ELBO(4, estimator="vimco"), model, guide, [logits, weight], x)
    assert by_logits[0] != 0
    assert by_weight != 0


def test_what_is_refused() -> None:
    given, x = Programs(), observations()
    for arguments, message in (
        ({"num_particles": 0}, "num_particles must be at least 1, got 0"),
        ({"bound": "iwae"}, "bound must be one of iwae_fast.bounds"),
        ({"estimator": "drg"}, "estimator must be one of"),
        ({"estimator": "gdreg"}, "not available for Pyro"),
        ({"estimator": "vimco", "num_particles": 1}, "needs k >= 2"),
        ({"estimator": "rws", "bound": iw.bounds.ELBO()}, "only for IWAE"),
        ({"budget": 0}, "budget must be at least 1"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            IWAE_ELBO(**{"num_particles": 3, **arguments})

    def empty(x: Tensor) -> None:
        pass

    with pytest.raises(ValueError, match="latent site 'z0' of the model is missing in the guide"):
        IWAE_ELBO(3, max_plate_nesting=1).loss(given.model, empty, x)
    enumerated = pyro.infer.config_enumerate(lambda: pyro.sample("c", dist.Bernoulli(0.5)), "parallel")
    with pytest.raises(ValueError, match="site 'c' is enumerated"):
        IWAE_ELBO(3, estimator="vimco", max_plate_nesting=0).loss(enumerated, enumerated)
    messenger = pyro.infer.autoguide.AutoNormalMessenger(given.model)
    with pytest.raises(TypeError, match="guide must be a function or module"):
        IWAE_ELBO(3).loss(given.model, messenger, x)


def test_axes_outside_all_plates_are_refused() -> None:
    def model() -> None:
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1).expand([4, 2, 3]), obs=torch.zeros(2))

    def guide() -> None:
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with (
        pyro.validation_enabled(False),
        pytest.raises(ValueError, match="site 'x' has 3 batch axes, but there are 1 for particles and plates"),
    ):
        IWAE_ELBO(3, max_plate_nesting=0).loss(model, guide)


def test_values_outside_the_support_are_refused() -> None:
    given = Programs()
    with pytest.raises(ValueError, match="support"):
        IWAE_ELBO(3, max_plate_nesting=1).loss(given.model, given.guide, observations() + 0.5)
