"""Tests of priors and posteriors with equal and different supports: errors, and the results of accepted pairs."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from distribution_encoders import AsDistribution, Wrapped, affine_flow, bent_flow
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Dirichlet,
    Distribution,
    Exponential,
    ExpTransform,
    Gamma,
    Geometric,
    Independent,
    Laplace,
    LogNormal,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    Pareto,
    Poisson,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
    SigmoidTransform,
    StickBreakingTransform,
    StudentT,
    TanhTransform,
    TransformedDistribution,
    Uniform,
    VonMises,
    constraints,
)
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

import iwae_fast as iw
from iwae_fast.models import MixturePrior, VampPrior
from iwae_fast.models.draw import Draw

Z, B, K = 3, 4, 5


def zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, Z)


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape, Z)


def gaussian(*shape: int) -> Distribution:
    return Normal(zeros(*shape), ones(*shape))


def through(*transforms: object) -> Callable[..., Distribution]:
    return lambda *shape: TransformedDistribution(gaussian(*shape), list(transforms))


def mixture(*shape: int) -> Distribution:
    components = Independent(LogNormal(zeros(*shape, 2), ones(*shape, 2)), 1)
    return MixtureSameFamily(Categorical(torch.ones(*shape, 2)), components)


FAMILIES: dict[str, Callable[..., Distribution]] = {
    "normal": gaussian,
    "laplace": lambda *shape: Laplace(zeros(*shape), 1.0),
    "student": lambda *shape: StudentT(5.0 * ones(*shape)),
    "multivariate": lambda *shape: MultivariateNormal(zeros(*shape), torch.eye(Z)),
    "low rank": lambda *shape: LowRankMultivariateNormal(zeros(*shape), ones(*shape).unsqueeze(-1), ones(*shape)),
    "affine": through(AffineTransform(1.0, 2.0)),
    "log-normal": lambda *shape: LogNormal(zeros(*shape), ones(*shape)),
    "gamma": lambda *shape: Independent(Gamma(ones(*shape), 2.0), 1),
    "exponential": lambda *shape: Exponential(ones(*shape)),
    "exp": through(AffineTransform(0.0, 1.0), ExpTransform()),
    "mixture": mixture,
    "beta": lambda *shape: Beta(ones(*shape), 2.0 * ones(*shape)),
    "uniform": lambda *shape: Uniform(zeros(*shape), ones(*shape)),
    "sigmoid": through(SigmoidTransform()),
    "relaxed": lambda *shape: RelaxedBernoulli(torch.tensor(0.5), logits=zeros(*shape)),
    "tanh": through(TanhTransform()),
    "uniform of two": lambda *shape: Uniform(-ones(*shape), ones(*shape)),
    "angle": lambda *shape: VonMises(zeros(*shape), ones(*shape)),
    "uniform angle": lambda *shape: Uniform(-math.pi * ones(*shape), math.pi * ones(*shape)),
    "ends by dimension": lambda *shape: Uniform(zeros(*shape), torch.arange(1.0, Z + 1).expand(*shape, Z)),
    "pareto": lambda *shape: Pareto(ones(*shape), ones(*shape)),
    "dirichlet": lambda *shape: Dirichlet(ones(*shape)),
    "concrete": lambda *shape: RelaxedOneHotCategorical(torch.tensor(0.5), logits=zeros(*shape)),
    "stick": lambda *shape: TransformedDistribution(
        Normal(torch.zeros(*shape, Z - 1), torch.ones(*shape, Z - 1)), StickBreakingTransform()
    ),
    "log concrete": lambda *shape: ExpRelaxedCategorical(torch.tensor(0.5), logits=zeros(*shape)),
    "moved concrete": lambda *shape: TransformedDistribution(
        RelaxedOneHotCategorical(torch.tensor(0.5), logits=zeros(*shape)), AffineTransform(0.0, 2.0, event_dim=1)
    ),
    "one-hot": lambda *shape: OneHotCategorical(logits=zeros(*shape)),
    "bernoulli": lambda *shape: Bernoulli(logits=zeros(*shape)),
    "two classes": lambda *shape: Categorical(torch.ones(*shape, Z, 2)),
    "binomial": lambda *shape: Binomial(1, logits=zeros(*shape)),
    "four classes": lambda *shape: Categorical(torch.ones(*shape, Z, 4)),
    "poisson": lambda *shape: Poisson(ones(*shape)),
    "geometric": lambda *shape: Geometric(0.5 * ones(*shape)),
}

SAME = (
    ("normal", "laplace", "student", "multivariate", "low rank", "affine"),
    ("log-normal", "gamma", "exponential", "exp", "mixture"),
    ("beta", "uniform", "sigmoid", "relaxed"),
    ("tanh", "uniform of two"),
    ("angle", "uniform angle"),
    ("ends by dimension",),
    ("pareto",),
    ("dirichlet", "concrete", "stick"),
    ("log concrete",),
    ("moved concrete",),
    ("one-hot",),
    ("bernoulli", "two classes", "binomial"),
    ("four classes",),
    ("poisson", "geometric"),
)
"""Families of one support each."""


def model_of(posterior: str, prior: object) -> tuple[iw.models.VAE, Tensor]:
    torch.manual_seed(0)
    encoder = Wrapped(nn.Linear(6, Z), lambda h: FAMILIES[posterior](len(h)))
    x = torch.rand(B, 6).round()
    return iw.models.VAE(encoder, nn.Linear(Z, 6), prior=prior), x  # type: ignore[arg-type]


@torch.no_grad()
@pytest.mark.parametrize("prior", FAMILIES)
def test_what_is_accepted_is_of_one_support(prior: str) -> None:
    """Compare log p(z) - log q(z | x) with the two densities if the supports agree; otherwise expect an error."""
    (accepted,) = (group for group in SAME if prior in group)
    for posterior in FAMILIES:
        model, x = model_of(posterior, FAMILIES[prior]())
        if posterior not in accepted:
            with pytest.raises(ValueError, match=r"prior must have the support of q\(z \| x\), got p\(z\) over "):
                model.log_weights(x, K, 1)
            continue
        q, p = FAMILIES[posterior](B), FAMILIES[prior]()
        z, terms = model.terms(x, model.encode(x), Draw(torch.tensor(1), K))
        log_p, log_q = (d.log_prob(z.float()).reshape(K, B, -1).sum(-1) for d in (p, q))
        torch.testing.assert_close(terms.log_weights() - terms.log_likelihood, log_p - log_q)


@pytest.mark.parametrize("posterior", FAMILIES)
def test_the_priors_that_are_gaussian(posterior: str) -> None:
    for prior in (None, MixturePrior(2, Z)):
        model, x = model_of(posterior, prior)
        objective = iw.Objective(iw.bounds.IWAE(), "vimco", num_samples=K)
        if posterior in SAME[0]:
            assert objective(model, x).isfinite()
            continue
        message = r"p\(z\) over real numbers, but the encoder's q\(z \| x\) is over"
        with pytest.raises(ValueError, match=message):
            objective(model, x)
        with pytest.raises(ValueError, match=message):
            iw.evaluate.log_likelihood(model, x, 3)


def test_a_gaussian_encoder_and_another_prior() -> None:
    for prior in (FAMILIES["beta"](), FAMILIES["dirichlet"](), FAMILIES["log-normal"](), FAMILIES["angle"]()):
        model = iw.models.DenseVAE(6, (Z,), (8,), prior=prior)
        with pytest.raises(ValueError, match=r"q\(z \| x\) is over real numbers"):
            iw.Objective(iw.bounds.IWAE(), num_samples=K)(model, torch.rand(B, 6))
        two = iw.models.DenseVAE(6, (4, Z), prior=prior)
        with pytest.raises(ValueError, match=r"q\(z \| x\) is over real numbers"):
            two.log_weights(torch.rand(B, 6), K)


def test_between_layers_all_is_gaussian() -> None:
    dense = iw.models.DenseVAE(6, (Z, 2))
    upper = [(layer.encoder, layer.prior) for layer in dense.upper]
    x = torch.rand(B, 6)
    flow = iw.models.VAE(AsDistribution(dense.encoder, bent_flow), dense.decoder, upper=upper)
    assert flow.log_weights(x, K).isfinite().all()
    beta = iw.models.VAE(Wrapped(nn.Linear(6, Z), lambda h: FAMILIES["beta"](len(h))), dense.decoder, upper=upper)
    with pytest.raises(ValueError, match="real numbers from 0 to 1"):
        beta.log_weights(x, K)


class OnASimplex(nn.Module):
    def __init__(self, support: constraints.Constraint | None) -> None:
        super().__init__()
        if support is not None:
            self.support = support

    def log_prob(self, z: Tensor) -> Tensor:
        return Dirichlet(ones(), validate_args=False).log_prob(z)


def test_a_module_is_held_to_what_it_says() -> None:
    for posterior, support, message in (
        ("dirichlet", None, None),
        ("dirichlet", constraints.simplex, None),
        ("normal", None, None),
        (
            "normal",
            constraints.simplex,
            r"over points of a simplex, but the encoder's q\(z \| x\) is over real numbers",
        ),
        ("beta", constraints.simplex, "real numbers from 0 to 1"),
    ):
        model, x = model_of(posterior, OnASimplex(support))
        if message is None:
            assert model.log_weights(x, K).shape == (K, B)
        else:
            with pytest.raises(ValueError, match=message):
                model.log_weights(x, K)


def test_a_transform_that_torch_knows_nothing_of() -> None:
    """Use the codomain that a user's transform declares."""
    model = iw.models.DenseVAE(6, (Z,), (8,))
    flow = iw.models.VAE(AsDistribution(model.encoder, affine_flow), model.decoder)
    x = torch.rand(B, 6)
    assert flow.log_weights(x, K).isfinite().all()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_prior_of_another_size(size: int) -> None:
    """Refuse other sizes, also a size of one, which would be broadcast."""
    for prior in (Normal(torch.zeros(size), torch.ones(size)), MixturePrior(2, size)):
        model, x = model_of("normal", prior)
        with pytest.raises(ValueError, match=rf"z must be \(..., {size}\) as the prior is, got \(5, 4, 3\)"):
            model.log_weights(x, K)
    one = iw.models.DenseVAE(6, (1,), (8,), prior=VampPrior(torch.rand(3, 6)))
    assert one.log_weights(torch.rand(B, 6), K).shape == (K, B)
