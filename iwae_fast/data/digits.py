"""The 1,797 handwritten 8x8 digits of scikit-learn: real data without a download."""

from __future__ import annotations

import torch

from .extra import extra_needed_by
from .images import ImageData
from .splits import split

TEST_OBSERVATIONS = 360
LARGEST_GRAY_LEVEL = 16.0


def load_digits() -> ImageData:
    """Load 1,437 training and 360 test images; the split is the same for every run.

    Raises ModuleNotFoundError if scikit-learn, a dependency of the ``cli`` extra, is not installed.
    """
    with extra_needed_by("data set 'digits'"):
        from sklearn import datasets  # takes a second to import

    levels = torch.as_tensor(datasets.load_digits().data, dtype=torch.float32) / LARGEST_GRAY_LEVEL
    train, test = split(len(levels), TEST_OBSERVATIONS)
    return ImageData(
        "digits",
        levels[train],
        levels[test],
        (8, 8),
        source="Handwritten digits of scikit-learn, a seeded split of 1,437 for training and 360 for the test.",
    )
