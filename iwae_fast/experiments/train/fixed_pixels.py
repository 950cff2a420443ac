"""Images with fixed pixels in a fixed order, so that every run is evaluated on the same ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from ...data import ImageData
from ...data.rows import Observations
from ...seeds import Purpose
from .pixels import as_pixels, split, subset_order

TEST_PIXELS_SEED = 0
"""Seed of the test pixels, the same for every run."""
VALIDATION = "validation"
"""Name of the validation set of a run among its evaluations."""


def fixed_test_images(data: ImageData, observations: int | None = None) -> Tensor:
    """Draw the test set (M, D) on which runs are evaluated, or its first ``observations``.

    The draw of zeros and ones is always the same; data that are not gray levels are returned as they are. Observations
    are shuffled in a fixed order, so that the first ones are a random subset even of a file sorted by class.
    """
    return _first(data.test, observations, data.grey_levels)


def fixed_test_grey_levels(data: ImageData) -> Tensor:
    """Return the gray levels (M, D) from which :func:`fixed_test_images` draws its pixels, in the same order."""
    return data.test[subset_order(len(data.test))]


def labels_of_test(data: ImageData, observations: int | None = None) -> NDArray[Any] | None:
    """Return the labels (M,) of the observations of :func:`fixed_test_images`; None if the data do not have labels."""
    labels = data.labels.get("test")
    return None if labels is None else labels[subset_order(len(data.test))[:observations].numpy()]


def fixed_training_images(data: ImageData, validation: int, observations: int | None = None) -> Tensor:
    """Draw the training set as :func:`fixed_test_images` draws the test set, without the held-out observations."""
    train, _ = split(data, validation)
    return _first(train, observations, data.grey_levels, 1)


def validation_data(data: ImageData, validation: int) -> ImageData | None:
    """Return data whose test part is the validation set of a run, under the name VALIDATION; None if it has none.

    Args:
        data: the data of the run.
        validation: number of training observations that the run holds out, in place of the data's own validation set.
    """
    _, held_out = split(data, validation)
    observations = data.valid if held_out is None else held_out
    return None if observations is None else replace(data, name=VALIDATION, test=observations, labels={})


def _first(images: Observations, observations: int | None, grey_levels: bool, *indices: int) -> Tensor:
    rows = subset_order(len(images))[:observations]
    return as_pixels(images, grey_levels, TEST_PIXELS_SEED, Purpose.TEST_PIXELS, *indices, rows=rows)
