"""Images with their pixels and their order drawn once and for all, so that every run is evaluated on the same ones."""

from __future__ import annotations

from torch import Tensor

from ..data import ImageData
from ..seeds import Purpose
from .pixels import as_pixels, shuffled
from .training import split

TEST_PIXELS_SEED = 0
"""The same for every run."""


def fixed_test_images(data: ImageData) -> Tensor:
    """The test set (M, D) as runs are evaluated on it: always the same draw of zeros and ones, or, of data that are no
    grey levels, as it is; shuffled, so that the first so many stand for all where a file has the digits in turn."""
    return shuffled(as_pixels(data.test, data.grey_levels, TEST_PIXELS_SEED, Purpose.TEST_PIXELS))


def fixed_test_grey_levels(data: ImageData) -> Tensor:
    """Return the test set (M, D) in the same order, with the grey levels that those pixels are drawn from."""
    return shuffled(data.test)


def fixed_training_images(data: ImageData, validation: int) -> Tensor:
    """The training set by the same rule, without those that a run held out."""
    train, _ = split(data, validation)
    return shuffled(as_pixels(train, data.grey_levels, TEST_PIXELS_SEED, Purpose.TEST_PIXELS, 1))
