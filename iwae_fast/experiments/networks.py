"""Construction of the model that a run's settings describe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..data.rows import Observations
from ..models import DenseVAE, LatentVariableModel, MixturePrior, RandomWeightsVAE, VampPrior
from .protocols import PROTOCOLS

if TYPE_CHECKING:
    from .config import TrainConfig

COMPONENTS = 100
"""Number of components of a learned mixture prior."""


def _dense(config: TrainConfig, data_dim: int, images: Observations | None, backend: str | None) -> LatentVariableModel:
    return DenseVAE(
        data_dim,
        config.latent,
        config.hidden,
        likelihood=config.likelihood,
        prior=PRIORS[config.prior](config, data_dim, images),
        data_mean=None if images is None else images.mean(0),
        backend=backend,
    )


def _random(
    config: TrainConfig, data_dim: int, images: Observations | None, backend: str | None, random: str
) -> LatentVariableModel:
    (latent,), (hidden,) = config.latent, config.hidden
    data_mean = None if images is None else images.mean(0)
    return RandomWeightsVAE(data_dim, latent, hidden, random=random, data_mean=data_mean, backend=backend)


def _vamp(config: TrainConfig, data_dim: int, images: Observations | None) -> nn.Module:
    """Return a prior with pseudo-inputs initialized to training observations, or to normal draws for an upper layer."""
    if len(config.latent) > 1:
        return VampPrior(torch.randn(COMPONENTS, config.latent[-2]))
    bounds = (0.0, 1.0) if config.likelihood == "bernoulli" else (None, None)
    start = torch.zeros(COMPONENTS, data_dim)
    if images is not None:
        start = images[torch.arange(COMPONENTS) % len(images)]
        if start.isnan().any():  # missing values
            start = torch.where(start.isnan(), images.mean(0), start)
    return VampPrior(start, *bounds)


NETWORKS: dict[str, Callable[[TrainConfig, int, Observations | None, str | None], LatentVariableModel]] = {
    "dense": _dense,
    "iwaer": partial(_random, random="all"),
    "iwaer-rec": partial(_random, random="encoder"),
}
"""Networks by their names on the command line: the papers' network, and the same with random weights, or with random
weights in the encoder only."""

PRIORS: dict[str, Callable[[TrainConfig, int, Observations | None], nn.Module | None]] = {
    "standard": lambda *_: None,
    "mixture": lambda config, *_: MixturePrior(COMPONENTS, config.latent[-1]),
    "vamp": _vamp,
}
"""Priors by their names on the command line: standard normal, a learned mixture, the average posterior of
pseudo-inputs."""


def check_network(config: TrainConfig) -> None:
    """Raise ValueError if the network is incompatible with the other settings."""
    if config.network == "dense":
        return
    if PROTOCOLS[config.protocol].initialize is not None:
        raise ValueError(
            f"protocol {config.protocol!r} initializes layers that network {config.network!r} does not have"
        )
    if len(config.latent) > 1:
        raise ValueError(f"latent must be a single size for network {config.network!r}, got {config.latent}")
    for name, only in (("likelihood", "bernoulli"), ("prior", "standard")):
        if getattr(config, name) != only:
            raise ValueError(f"{name} must be {only!r} for network {config.network!r}, got {getattr(config, name)!r}")


def build(
    config: TrainConfig, data_dim: int, images: Observations | None = None, backend: str | None = None
) -> LatentVariableModel:
    """Build the untrained model of a run, on the CPU, with weights from torch's generator.

    Args:
        config: the run's settings.
        data_dim: D.
        images: the training observations (N, D), whose mean initializes the output bias; None if the weights will be
            replaced by those of a checkpoint.
        backend: the backend to force; the run's if None.
    """
    model = NETWORKS[config.network](config, data_dim, images, backend or config.backend)
    initialize = PROTOCOLS[config.protocol].initialize
    if initialize is not None:
        initialize(model)
    return model
