"""What a model is shown of an image.

Pixels are a function of (seed, index) by the package's own noise, so that a CPU and a GPU draw the same ones (but for
the one in millions whose noise is within rounding of its grey level), and a CUDA graph draws fresh ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...backends import BEST, REFERENCE
from ...data.rows import Observations, Rows
from ...ops.samples import seed_tensor, standard_normal
from ...seeds import Purpose, derive_seed, generator

SUBSET_SEED = 0
"""The same for every run."""

PIXEL_STREAM = 2**31 + 2
"""Of the noise that pixels are drawn by; latent layers count from 0, a budget and resampling have 2^31 and the next."""

ROWS_AT_ONCE = 1024
"""The images of a whole data set whose pixels are drawn at a time: their noise takes a few times their memory."""


def batches_as_pixels(grey_levels: Tensor, seed: Tensor, steps: Tensor) -> Tensor:
    """A fresh draw of every pixel of the batches (S, B, D) of S steps as Bernoulli(grey level), zeros and ones.

    Each pixel is a function of the seed, the step, and where it is in the batch: of steps one by one, or of several at
    once, it is the same.

    Args:
        grey_levels: (S, B, D) in [0, 1], float32, which pixels are too.
        seed: int64 scalar on their device.
        steps: (S,) int64 on their device, each in [0, 2^32).
    """
    return _drawn(grey_levels, seed, samples=steps[:, None].expand(grey_levels.shape[:2]))


def as_pixels(
    images: Observations,
    grey_levels: bool,
    seed: int,
    purpose: Purpose,
    *indices: int,
    rows: Tensor | None = None,
) -> Tensor:
    """Draw every pixel of the images (N, D), or of some rows of them (M, D), as Bernoulli(grey level).

    A pixel is a function of the seed, purpose and indices and of where it is among all images, whichever rows are
    drawn. Rows that are not grey levels are returned as they are.

    Args:
        images: float32, or what gives float32 when it is indexed.
        grey_levels: whether there is anything to draw.
        seed, purpose, indices: as of :func:`iwae_fast.seeds.derive_seed`.
        rows: int64 (M,), on the CPU; all rows if None.
    """
    device = torch.device("cpu") if isinstance(images, Rows) else images.device
    if not grey_levels:
        return images[slice(None) if rows is None else rows.to(device)]
    if rows is None:
        rows = torch.arange(len(images))
    key = seed_tensor(derive_seed(seed, purpose, *indices), device)
    pixels = torch.empty((len(rows), images.shape[1]), device=device)
    ascending, places = rows.sort()
    firsts = torch.arange(0, len(images) + ROWS_AT_ONCE, ROWS_AT_ONCE)
    starts = torch.searchsorted(ascending, firsts).tolist()
    for first, start, end in zip(firsts.tolist(), starts, starts[1:], strict=False):
        if start == end:
            continue
        drawn = _drawn(images[first : first + ROWS_AT_ONCE][None], key, observation_offset=first).squeeze(0)
        pixels[places[start:end].to(device)] = drawn[(ascending[start:end] - first).to(device)]
    return pixels


def _drawn(grey_levels: Tensor, seed: Tensor, *, samples: Tensor | None = None, observation_offset: int = 0) -> Tensor:
    count, observations, dimensions = grey_levels.shape
    noise = standard_normal(
        (count, observations, dimensions),
        seed,
        samples=samples,
        observation_offset=observation_offset,
        stream=PIXEL_STREAM,
        device=grey_levels.device,
        backend=BEST.get(grey_levels.device.type, REFERENCE),  # whichever is forced for models
    )
    # Twice the normal distribution function of the noise, by erfc since it stays above 0 at the noise's lower end: so
    # that levels of 0 and 1 are certain, whatever is rounded.
    return noise.mul_(-math.sqrt(0.5)).erfc_().gt_(2.0 - 2.0 * grey_levels)


def subset_order(observations: int) -> Tensor:
    """An order of so many observations, always the same one, whose beginnings are random subsets."""
    return torch.randperm(observations, generator=generator(SUBSET_SEED, Purpose.SUBSET))
