"""The bound of held-out observations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...data import ImageData
from ...data.rows import Observations, select
from ...evaluate import likelihood as evaluate
from ...models import LatentVariableModel
from ...seeds import Purpose, derive_seed
from ..config import TrainConfig
from .pixels import as_pixels, subset_order

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

LARGEST = 1000
"""The most observations of a validation set that are evaluated after each epoch."""


class Validation:
    """The validation set of a run: observations held out of the training set, or else the data set's own.

    Its pixels and noise are the same at each evaluation, so that epochs can be compared.
    """

    def __init__(
        self, config: TrainConfig, data: ImageData, held_out: Observations | None, device: torch.device
    ) -> None:
        images = data.valid if held_out is None else held_out
        self.k = config.k
        self.seed = derive_seed(config.seed, Purpose.VALIDATION)
        self.observations: Tensor | None = None
        self.mask: Tensor | None = None
        if images is not None:
            few = select(images, subset_order(len(images))[:LARGEST])[:].to(device)
            self.observations = as_pixels(few, data.grey_levels, config.seed, Purpose.VALIDATION_PIXELS)
            self.mask = data.mask(self.observations)

    def bound(self, model: LatentVariableModel, mesh: DeviceMesh | None = None) -> float | None:
        """Return the mean IWAE bound in nats with the k of training; None without a validation set.

        All processes of a mesh must call this together.
        """
        if self.observations is None:
            return None
        x = self.observations
        return evaluate.log_likelihood(model, x, self.k, seed=self.seed, mask=self.mask, mesh=mesh).mean
