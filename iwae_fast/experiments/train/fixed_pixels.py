"""Images with their pixels and their order drawn once and for all, so that every run is evaluated on the same ones."""

from __future__ import annotations

from torch import Tensor

from ...data import ImageData
from ...data.rows import Observations
from ...seeds import Purpose
from .pixels import as_pixels, subset_order
from .training import split

TEST_PIXELS_SEED = 0
"""The same for every run."""


def fixed_test_images(data: ImageData, observations: int | None = None) -> Tensor:
    """Draw the test set (M, D) as runs are evaluated on it, or its first so many observations.

    It is always the same draw of zeros and ones, or, of data that are not grey levels, the data as they are; shuffled,
    so that the first so many stand for all where a file has the digits in turn.
    """
    return _first(data.test, observations, data.grey_levels)


def fixed_test_grey_levels(data: ImageData) -> Tensor:
    """Return the test set (M, D) in the same order, with the grey levels that those pixels are drawn from."""
    return data.test[subset_order(len(data.test))]


def fixed_training_images(data: ImageData, validation: int, observations: int | None = None) -> Tensor:
    """Draw the training set by the same rule, without the observations that a run held out."""
    train, _ = split(data, validation)
    return _first(train, observations, data.grey_levels, 1)


def _first(images: Observations, observations: int | None, grey_levels: bool, *indices: int) -> Tensor:
    rows = subset_order(len(images))[:observations]
    return as_pixels(images, grey_levels, TEST_PIXELS_SEED, Purpose.TEST_PIXELS, *indices, rows=rows)
