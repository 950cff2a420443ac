"""All supported combinations of model, bound and estimator, and small models away from their optimum."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from linear_gaussian import linear_gaussian, two_layer_linear_gaussian
from torch import Tensor, nn

import iwae_fast as iw
from iwae_fast.bounds import CIWAE, CUBO, ELBO, IWAE, JVI, MIWAE, PIWAE, SUMO, TVO, VRIWAE, Bound
from iwae_fast.objectives.estimators import ESTIMATORS

K = 6


def one_layer() -> iw.models.VAE:
    return linear_gaussian(data_dim=4, latent_dim=2)


def three_layers() -> iw.models.VAE:
    """Return a nonlinear model with tanh layers and binary pixels."""
    torch.manual_seed(2)
    model = iw.models.DenseVAE(4, (3, 2, 2), ((5,), (3,), (3,))).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def binary_latents() -> iw.models.BernoulliVAE:
    torch.manual_seed(3)
    model = iw.models.BernoulliVAE(nn.Linear(4, 3), nn.Linear(3, 4), latent_dim=3).double()
    with torch.no_grad():
        model.prior_logits += torch.randn(3)
    return model


MODELS: dict[str, Callable[[], iw.models.LatentVariableModel]] = {
    "one layer": one_layer,
    "two layers": two_layer_linear_gaussian,
    "three layers": three_layers,
    "binary": binary_latents,
}
BOUNDS: list[Bound] = [
    ELBO(),
    IWAE(),
    VRIWAE(0.4),
    VRIWAE(1.5),
    VRIWAE(-0.5),
    CUBO(2),
    MIWAE(2),
    PIWAE(2),
    CIWAE(0.3),
    TVO((0.0, 0.3)),
    JVI(1),
    JVI(2),
    SUMO(),
]


def offered(model: str, bound: Bound, estimator: str) -> bool:
    try:
        iw.Objective(bound, estimator, num_samples=K).check_model(MODELS[model]())
    except ValueError:
        return False
    return True


CELLS = [
    (model, bound, name) for model in MODELS for bound in BOUNDS for name in ESTIMATORS if offered(model, bound, name)
]
cells = pytest.mark.parametrize(("name", "bound", "estimator"), CELLS, ids=lambda part: str(part).replace(" ", "-"))


def away_from_the_optimum(name: str = "one layer") -> tuple[iw.models.LatentVariableModel, Tensor]:
    model = MODELS[name]()
    torch.manual_seed(5)
    x = torch.randn(3, 4, dtype=torch.float64)
    if isinstance(model.likelihood, iw.likelihoods.Bernoulli):
        x = (x > 0).double()
    if name in ("one layer", "two layers"):
        with torch.no_grad():
            model.encoder.bias += 0.5
            model.encoder.log_std += 0.3
            for layer in model.upper:
                layer.encoder.bias -= 0.4
                layer.encoder.log_std += 0.2
    return model, x


def gradients(
    objective: iw.Objective, model: iw.models.LatentVariableModel, x: Tensor, seed: int, **options: object
) -> list[Tensor]:
    """Return the gradient of every parameter, with zeros for those that are not used."""
    parameters = list(model.parameters())
    grads = torch.autograd.grad(objective(model, x, seed=seed, **options), parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]
