"""The 1,797 handwritten 8x8 digits that come with scikit-learn: real data that need no download."""

from __future__ import annotations

import torch

from ..seeds import Purpose, generator
from .images import ImageData

TEST_OBSERVATIONS = 360
SPLIT_SEED = 0
LARGEST_GREY_LEVEL = 16.0


def load_digits() -> ImageData:
    """1,437 training and 360 test images; the split is the same for every run."""
    from sklearn import datasets  # a second to import, so only where it is needed

    levels = torch.as_tensor(datasets.load_digits().data, dtype=torch.float32) / LARGEST_GREY_LEVEL
    order = torch.randperm(len(levels), generator=generator(SPLIT_SEED, Purpose.SPLIT))
    test, train = order[:TEST_OBSERVATIONS], order[TEST_OBSERVATIONS:]
    return ImageData("digits", levels[train], levels[test], (8, 8))
