"""The bound of observations that training does not see."""

from __future__ import annotations

import torch

from ...data import ImageData
from ...data.rows import Observations, select
from ...evaluate import likelihood as evaluate
from ...models import LatentVariableModel
from ...seeds import Purpose, derive_seed
from ..config import TrainConfig
from .pixels import as_pixels, subset_order

LARGEST = 1000
"""Observations of a validation set that are looked at after each epoch."""


class Validation:
    """The validation set of a run: what was held out of the training observations, or else the data set's own.

    Its pixels and noise are the same at each time, so that epochs can be compared.
    """

    def __init__(
        self, config: TrainConfig, data: ImageData, held_out: Observations | None, device: torch.device
    ) -> None:
        images = data.valid if held_out is None else held_out
        self.k = config.k
        self.seed = derive_seed(config.seed, Purpose.VALIDATION)
        self.observations = None
        if images is not None:
            few = select(images, subset_order(len(images))[:LARGEST])[:].to(device)
            self.observations = as_pixels(few, data.grey_levels, config.seed, Purpose.VALIDATION_PIXELS)

    def bound(self, model: LatentVariableModel) -> float | None:
        """Mean IWAE bound in nats with the k of training; None where nothing is held out."""
        if self.observations is None:
            return None
        return evaluate.log_likelihood(model, self.observations, self.k, seed=self.seed).mean
