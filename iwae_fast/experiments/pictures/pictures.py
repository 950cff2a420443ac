"""Pictures of a trained model, as the bytes of PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...data import ImageData
from ...models import LatentVariableModel
from ...modes import evaluation_mode
from ...seeds import Purpose, derive_seed
from ..config import TrainConfig
from ..train.fixed_pixels import fixed_test_grey_levels, fixed_test_images, labels_of_test
from ..train.metrics import EpochMetrics, read_metrics
from ..train.runs import Run
from ..train.segments import Segment
from . import plots
from .themes import LIGHT, Theme

RECONSTRUCTIONS = 12
IN_PLANE = 2000
"""The most test observations in a latent plane."""
DECODED = 15
"""Number of images along each side of a decoded plane."""
TRAVERSED_UNITS = 8
TRAVERSED_VALUES = torch.linspace(-3.0, 3.0, 13)
"""Values of a traversed unit: up to three standard deviations of a standard normal prior on each side."""


def are_images(shape: Sequence[int]) -> bool:
    """Return whether observations of this (height, width) are images, not rows of features."""
    return min(shape) > 1


def thing(shape: Sequence[int]) -> str:
    """Return the word for an observation of this (height, width): "image" or "observation"."""
    return "image" if are_images(shape) else "observation"


def title(config: TrainConfig) -> str:
    """Return the title of a run: data set (the name without suffix if it is a file), bound and k."""
    return f"{Path(config.dataset).stem}: {config.bound.upper()}, k = {config.k}"


def loss_curve(
    run: Run, config: TrainConfig, shape: Sequence[int], segments: Sequence[Segment] = (), theme: Theme = LIGHT
) -> bytes:
    """Draw the bound and the effective sample size in training, and mark changes of the objective.

    Args:
        shape: height and width of an observation, which determine the unit of the bound.
    """
    rows = read_metrics(run.metrics)
    return plots.training_curves(rows, title(config), config.k, thing(shape), theme, changes(rows, segments))


def changes(rows: Sequence[EpochMetrics], segments: Sequence[Segment]) -> list[float]:
    """Return the epochs, not necessarily whole, after which the objective changed."""
    in_epoch = rows[0].step / rows[0].epoch if rows else 1.0
    return [segment.step / in_epoch for segment in segments[1:]]


def reconstructions(model: LatentVariableModel, data: ImageData, theme: Theme = LIGHT) -> bytes:
    """Draw test images above the mean of p(x | z) at the posterior mean of z.

    The top row shows the gray levels from which the pixels were drawn, if the data have gray levels.
    """
    return _above_reconstructions(model, data, torch.arange(min(RECONSTRUCTIONS, len(data.test))), (), theme)


def worst(model: LatentVariableModel, data: ImageData, nll: Tensor, theme: Theme = LIGHT) -> bytes:
    """Draw the test images with the largest ``nll``, the worst first, with their reconstructions and their nats.

    Args:
        nll: (M,) in nats, in the order of :func:`.fixed_pixels.fixed_test_images`.
    """
    largest = nll.topk(min(RECONSTRUCTIONS, len(nll)))
    nats = [f"{value:.1f}" for value in largest.values.tolist()]
    return _above_reconstructions(model, data, largest.indices, nats, theme)


def _above_reconstructions(
    model: LatentVariableModel, data: ImageData, chosen: Tensor, columns: Sequence[str], theme: Theme
) -> bytes:
    shown = fixed_test_images(data)[chosen]
    with evaluation_mode(model):
        on_device = shown.to(next(model.parameters()).device)
        reconstructed = model.reconstruct(on_device, mask=data.mask(on_device)).cpu()
    named = {"test images": shown, "reconstructions": reconstructed}
    if data.grey_levels:
        named = {"gray levels": fixed_test_grey_levels(data)[chosen], "as evaluated": shown, **named}
        del named["test images"]
    rows = torch.stack(tuple(named.values())).unflatten(-1, data.image_shape)
    return plots.image_grid(rows.numpy(), tuple(named), columns, theme)


@torch.no_grad()
def latent_plane(model: LatentVariableModel, data: ImageData, theme: Theme = LIGHT) -> tuple[bytes, str]:
    """Draw the posterior means of test observations in two dimensions, with thumbnails if they are images,
    in the colors of their classes if there are labels.

    The axes are the two latent units, or the first two principal components if there are more. Returns the picture and
    a sentence that describes its axes.
    """
    x = fixed_test_images(data, IN_PLANE).to(next(model.parameters()).device)
    with evaluation_mode(model):
        means = model.posterior_mean(model.encode(x, mask=data.mask(x))).double().cpu()
    if means.shape[1] == 2:
        points, labels = means, ("unit 0", "unit 1")
        said = "The axes are the two latent units."
    else:
        centered = means - means.mean(0)
        _, singular, directions = torch.linalg.svd(centered, full_matrices=False)
        points = centered @ directions[:2].T
        shares = singular.square() / singular.square().sum().clamp(min=1e-300)
        labels = "first principal component", "second principal component"
        said = (
            f"The axes are the first two principal components of {means.shape[1]} units, with "
            f"{shares[:2].sum().item():.0%} of the variance."
        )
    images = x.cpu().unflatten(-1, data.image_shape).numpy() if are_images(data.image_shape) else None
    return plots.plane(points.numpy(), labels, images, theme, labels_of_test(data, len(x))), said


@torch.no_grad()
def decoded_plane(model: LatentVariableModel, data: ImageData, theme: Theme = LIGHT) -> bytes:
    """Draw the mean of p(x | z) over the plane of two latent units, at quantiles of a standard normal."""
    quantiles = torch.special.ndtri((torch.arange(DECODED) + 0.5) / DECODED)
    across, down = torch.meshgrid(quantiles, quantiles.flip(0), indexing="xy")
    z = torch.stack((across, down), -1).flatten(0, 1).to(next(model.parameters()))
    with evaluation_mode(model):
        images = model.likelihood.mean(model.decoder(z)).reshape(DECODED, DECODED, *data.image_shape)
    return plots.image_grid(images.cpu().numpy(), theme=theme)


def side_by_side(models: Mapping[str, LatentVariableModel], data: ImageData, theme: Theme = LIGHT) -> bytes:
    """Draw test images above their reconstructions by several models, each with its label."""
    originals = fixed_test_images(data, RECONSTRUCTIONS)
    rows = [originals]
    for model in models.values():
        with evaluation_mode(model):
            rows.append(model.reconstruct(originals.to(next(model.parameters()).device)).cpu())
    images = torch.stack(rows).unflatten(-1, data.image_shape)
    return plots.image_grid(images.numpy(), labels=("ground truth", *models), theme=theme)


def samples(
    model: LatentVariableModel, shape: Sequence[int], rows: int, columns: int, seed: int, theme: Theme = LIGHT
) -> bytes:
    """Draw the mean of p(x | z) for z sampled from the prior."""
    with evaluation_mode(model):
        images = model.sample(rows * columns, derive_seed(seed, Purpose.SAMPLES))
    return plots.image_grid(images.reshape(rows, columns, *shape).cpu().numpy(), theme=theme)


@torch.no_grad()
def traversals(model: LatentVariableModel, data: ImageData, variance: Tensor, theme: Theme = LIGHT) -> bytes:
    """Draw the mean of p(x | z) as one unit of a Gaussian z_1 goes from -3 to 3.

    The other units stay at the posterior mean of the first test image. There is one row for each of the units with the
    largest ``variance`` (Z_1,), see :mod:`iwae_fast.evaluate.activity`.
    """
    example = fixed_test_images(data, 1).to(next(model.parameters()).device)
    units = variance.topk(min(TRAVERSED_UNITS, len(variance))).indices.tolist()
    with evaluation_mode(model):
        z = model.posterior_mean(example, mask=data.mask(example))
        z = z.repeat(len(units), len(TRAVERSED_VALUES), 1)
        for row, unit in zip(z, units, strict=True):
            row[:, unit] = TRAVERSED_VALUES.to(row)
        images = model.likelihood.mean(model.decoder(z.flatten(0, 1)))
    grid = images.reshape(*z.shape[:2], *data.image_shape)
    return plots.image_grid(grid.cpu().numpy(), labels=[f"unit {unit}" for unit in units], theme=theme)
