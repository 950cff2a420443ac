"""Binary pixels drawn from gray levels.

Pixels are a function of (seed, index) by the package's own noise. A CPU and a GPU draw the same ones, except for about
one in millions whose noise is within rounding of its gray level, and a CUDA graph draws fresh ones at each replay.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...backends import best
from ...data import ImageData
from ...data.rows import Observations, Rows, select
from ...ops.samples import seed_tensor, standard_normal
from ...seeds import Purpose, derive_seed, generator

SUBSET_SEED = 0
"""Seed of the order of subsets, the same for every run."""

PIXEL_STREAM = 2**31 + 2
"""Noise stream of pixels; latent layers use streams from 0, a budget and resampling use 2^31 and 2^31 + 1."""

ROWS_AT_ONCE = 1024
"""Images per chunk when the pixels of a data set are drawn, because the noise takes a few times their memory."""


def batches_as_pixels(
    grey_levels: Tensor, seed: Tensor, steps: Tensor, first: int = 0, missing: bool = False
) -> Tensor:
    """Draw every pixel of the batches (S, B, D) of S steps as Bernoulli(gray level): zeros and ones in float32.

    Each pixel is a function of the seed, the step and its position in the batch, so drawing steps one by one or
    together gives the same pixels.

    Args:
        grey_levels: (S, B, D) in [0, 1], float32.
        seed: int64 scalar on their device.
        steps: (S,) int64 on their device, each in [0, 2^32).
        first: position in the whole batch of the first observation, if these are parts of batches.
        missing: True if NaN stands for missing pixels, which stay NaN.
    """
    samples = steps[:, None].expand(grey_levels.shape[:2])
    pixels = _drawn(grey_levels, seed, samples=samples, observation_offset=first)
    return torch.where(grey_levels.isnan(), grey_levels, pixels) if missing else pixels


def as_pixels(
    images: Observations,
    grey_levels: bool,
    seed: int,
    purpose: Purpose,
    *indices: int,
    rows: Tensor | None = None,
) -> Tensor:
    """Draw every pixel of the images (N, D), or of some rows of them (M, D), as Bernoulli(gray level).

    A pixel is a function of the seed, purpose and indices and of its position among all images, whichever rows are
    drawn. Rows that are not gray levels are returned as they are. NaN, a missing pixel, stays NaN.

    Args:
        images: float32, or a :class:`.rows.Rows`, which returns float32 when it is indexed.
        grey_levels: True if the images are gray levels, so that pixels are drawn.
        seed, purpose, indices: as for :func:`iwae_fast.seeds.derive_seed`.
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
        levels = images[first : first + ROWS_AT_ONCE]
        drawn = _drawn(levels[None], key, observation_offset=first).squeeze(0)
        drawn = torch.where(levels.isnan(), levels, drawn)
        pixels[places[start:end].to(device)] = drawn[(ascending[start:end] - first).to(device)]
    return pixels


def _drawn(grey_levels: Tensor, seed: Tensor, *, samples: Tensor | None = None, observation_offset: int = 0) -> Tensor:
    count, observations, dimensions = grey_levels.shape
    noise = standard_normal(
        (count, observations, dimensions),
        seed,
        sample_indices=samples,
        observation_offset=observation_offset,
        stream=PIXEL_STREAM,
        device=grey_levels.device,
        backend=best(grey_levels.device, "standard_normal"),  # regardless of the backend forced for the model
    )
    # erfc(-noise / sqrt(2)) is twice the normal CDF of the noise. Unlike 1 + erf it stays above 0 in the lower tail, so
    # that levels of 0 and 1 are certain despite rounding.
    return noise.mul_(-math.sqrt(0.5)).erfc_().gt_(2.0 - 2.0 * grey_levels)


def split(data: ImageData, validation: int) -> tuple[Observations, Observations | None]:
    """Return the training observations without ``validation`` held-out ones, always the same, and these (None if 0)."""
    if not validation:
        return data.train, None
    if validation >= len(data.train):
        raise ValueError(f"validation must be below the {len(data.train)} training observations, got {validation}")
    held_out = torch.zeros(len(data.train), dtype=torch.bool)
    held_out[subset_order(len(data.train))[:validation]] = True
    training, validating = (~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1)
    return select(data.train, training), select(data.train, validating)


def subset_order(observations: int) -> Tensor:
    """Return a fixed permutation of this many observations, any beginning of which is a random subset."""
    return torch.randperm(observations, generator=generator(SUBSET_SEED, Purpose.SUBSET))
