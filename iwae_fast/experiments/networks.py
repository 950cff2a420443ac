"""The model that a run's settings describe."""

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
"""Of a learned mixture prior."""


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
    """Pseudo-inputs that start at training observations, or, for the encoder of an upper layer, at normal draws."""
    if len(config.latent) > 1:
        return VampPrior(torch.randn(COMPONENTS, config.latent[-2]))
    bounds = (0.0, 1.0) if config.likelihood == "bernoulli" else (None, None)
    start = torch.zeros(COMPONENTS, data_dim)
    if images is not None:
        start = images[torch.arange(COMPONENTS) % len(images)]
    return VampPrior(start, *bounds)


NETWORKS: dict[str, Callable[[TrainConfig, int, Observations | None, str | None], LatentVariableModel]] = {
    "dense": _dense,
    "iwaer": partial(_random, random="all"),
    "iwaer-rec": partial(_random, random="encoder"),
}
"""By the names of the command line: the papers' networks, the same with random weights, or with such an encoder."""

PRIORS: dict[str, Callable[[TrainConfig, int, Observations | None], nn.Module | None]] = {
    "standard": lambda *_: None,
    "mixture": lambda config, *_: MixturePrior(COMPONENTS, config.latent[-1]),
    "vamp": _vamp,
}
"""By the names of the command line: standard normal, a learned mixture, the average posterior of pseudo-inputs."""


def check_network(config: TrainConfig) -> None:
    """ValueError where a network cannot be what the other settings say."""
    if config.network == "dense":
        return
    if PROTOCOLS[config.protocol].initialize is not None:
        raise ValueError(f"protocol {config.protocol!r} says how weights begin that network {config.network!r} has not")
    if len(config.latent) > 1:
        raise ValueError(f"network {config.network!r} has one stochastic layer, got latent {config.latent}")
    for name, only in (("likelihood", "bernoulli"), ("prior", "standard")):
        if getattr(config, name) != only:
            raise ValueError(f"network {config.network!r} has {name} {only!r}, got {getattr(config, name)!r}")


def build(
    config: TrainConfig, data_dim: int, images: Observations | None = None, backend: str | None = None
) -> LatentVariableModel:
    """The untrained model of a run, on the CPU, with weights from torch's generator.

    Args:
        config: the run's settings.
        data_dim: D.
        images: the training observations (N, D), whose mean is where the output bias starts; None where a checkpoint's
            weights are to replace these.
        backend: in place of the run's.
    """
    model = NETWORKS[config.network](config, data_dim, images, backend or config.backend)
    initialize = PROTOCOLS[config.protocol].initialize
    if initialize is not None:
        initialize(model)
    return model
