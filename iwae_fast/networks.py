"""The model that a run's settings describe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from .models import DenseVAE, LatentVariableModel, RandomWeightsVAE
from .protocols import PROTOCOLS

if TYPE_CHECKING:
    from .config import TrainConfig


def _dense(config: TrainConfig, data_dim: int, data_mean: Tensor | None, backend: str | None) -> LatentVariableModel:
    return DenseVAE(data_dim, config.latent, config.hidden, data_mean=data_mean, backend=backend)


def _random(
    config: TrainConfig, data_dim: int, data_mean: Tensor | None, backend: str | None, random: str
) -> LatentVariableModel:
    (latent,), (hidden,) = config.latent, config.hidden
    return RandomWeightsVAE(data_dim, latent, hidden, random=random, data_mean=data_mean, backend=backend)


Build = Callable[["TrainConfig", int, Tensor | None, str | None], LatentVariableModel]

NETWORKS: dict[str, Build] = {
    "dense": _dense,
    "iwaer": partial(_random, random="all"),
    "iwaer-rec": partial(_random, random="encoder"),
}
"""By the names of the command line: the papers' networks, the same with random weights, or with such an encoder."""

OF_ONE_LAYER = ("iwaer", "iwaer-rec")


def build(
    config: TrainConfig, data_dim: int, data_mean: Tensor | None = None, backend: str | None = None
) -> LatentVariableModel:
    """The untrained model of a run, on the CPU, with weights from torch's generator.

    Args:
        config: the run's settings.
        data_dim: D.
        data_mean: (D,) mean of the training data, for the output bias.
        backend: in place of the run's.
    """
    model = NETWORKS[config.network](config, data_dim, data_mean, backend or config.backend)
    initialize = PROTOCOLS[config.protocol].initialize
    if initialize is not None:
        initialize(model)
    return model
