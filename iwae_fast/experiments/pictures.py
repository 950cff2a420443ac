"""Pictures of a trained model, each the bytes of a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..data import ImageData
from ..models import LatentVariableModel
from ..modes import evaluation_mode
from ..seeds import Purpose, derive_seed
from . import plots
from .config import TrainConfig
from .fixed_pixels import fixed_test_images
from .metrics import read_metrics
from .runs import Run
from .segments import Segment

RECONSTRUCTIONS = 12
TRAVERSED_UNITS = 8
TRAVERSED_VALUES = torch.linspace(-3.0, 3.0, 13)
"""Of a traversed unit: three standard deviations of a standard normal prior either way."""


def are_images(shape: Sequence[int]) -> bool:
    """Whether observations of this (height, width) are images, not rows of features."""
    return min(shape) > 1


def title(config: TrainConfig) -> str:
    """Of a run, in a few words; data of one's own go by the name of their file."""
    return f"{Path(config.dataset).stem}: {config.bound.upper()}, k = {config.k}"


def loss_curve(run: Run, config: TrainConfig, segments: Sequence[Segment] = ()) -> bytes:
    """Draw the bound and the effective sample size over the epochs, and where the objective changed."""
    rows = read_metrics(run.metrics)
    in_epoch = rows[0].step / rows[0].epoch if rows else 1.0
    changes = [segment.step / in_epoch for segment in segments[1:]]
    return plots.training_curves(rows, title(config), config.k, changes)


def reconstructions(model: LatentVariableModel, data: ImageData) -> bytes:
    """Test images above the mean of p(x | z) at the posterior mean of z."""
    originals = fixed_test_images(data, RECONSTRUCTIONS).to(next(model.parameters()).device)
    with evaluation_mode(model):
        rows = torch.stack((originals, model.reconstruct(originals))).unflatten(-1, data.image_shape)
    return plots.image_grid(rows.cpu().numpy(), labels=("test images", "reconstructions"))


def side_by_side(models: Mapping[str, LatentVariableModel], data: ImageData) -> bytes:
    """Test images above what each of several models, by their labels, makes of them."""
    originals = fixed_test_images(data, RECONSTRUCTIONS)
    rows = [originals]
    for model in models.values():
        with evaluation_mode(model):
            rows.append(model.reconstruct(originals.to(next(model.parameters()).device)).cpu())
    images = torch.stack(rows).unflatten(-1, data.image_shape)
    return plots.image_grid(images.numpy(), labels=("ground truth", *models))


def samples(model: LatentVariableModel, shape: Sequence[int], rows: int, columns: int, seed: int) -> bytes:
    """The mean of p(x | z) for z from the prior."""
    with evaluation_mode(model):
        images = model.sample(rows * columns, derive_seed(seed, Purpose.SAMPLES))
    return plots.image_grid(images.reshape(rows, columns, *shape).cpu().numpy())


@torch.no_grad()
def traversals(model: LatentVariableModel, data: ImageData, variance: Tensor) -> bytes:
    """The mean of p(x | z) as one unit of a Gaussian z_1 goes from -3 to 3 and the others stay at the posterior mean of
    the first test image; a row for each of the units of the largest ``variance`` (Z_1,), see
    :mod:`iwae_fast.activity`."""
    example = fixed_test_images(data, 1).to(next(model.parameters()).device)
    units = variance.topk(min(TRAVERSED_UNITS, len(variance))).indices.tolist()
    with evaluation_mode(model):
        z = model.posterior_mean(example)
        z = z.repeat(len(units), len(TRAVERSED_VALUES), 1)
        for row, unit in zip(z, units, strict=True):
            row[:, unit] = TRAVERSED_VALUES.to(row)
        images = model.likelihood.mean(model.decoder(z.flatten(0, 1)))
    grid = images.reshape(*z.shape[:2], *data.image_shape)
    return plots.image_grid(grid.cpu().numpy(), labels=[f"unit {unit}" for unit in units])
