"""Images as rows of a tensor, and the binarization of gray levels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .rows import Observations, fingerprint


class DataError(RuntimeError):
    """A data file is missing, damaged or not the expected one; the message names it."""


@dataclass(frozen=True)
class ImageData:
    """A data set, its observations flattened to rows.

    Each part is a float32 tensor, or a :class:`.rows.Rows`, which returns such tensors when it is indexed.
    """

    name: str
    train: Observations
    """(N, D) float32."""
    test: Observations
    """(M, D) float32."""
    image_shape: tuple[int, int]
    """Height and width in pixels, with D their product; (1, D) for features that are not an image."""
    valid: Observations | None = None
    """(V, D) float32: the data set's own validation set; None if it does not have one."""
    grey_levels: bool = True
    """True if rows are gray levels in [0, 1], from which binary pixels are drawn afresh for each batch; False if rows
    are used as they are."""
    source: str = ""
    """A sentence for reports that names the files and the split."""

    @cached_property
    def train_fingerprint(self) -> str:
        """The digest by which a run recognizes its training observations."""
        return fingerprint(self.train)

    @cached_property
    def test_fingerprint(self) -> str:
        """The digest by which a run recognizes its test observations."""
        return fingerprint(self.test)


def binarize(images: Tensor, generator: torch.Generator) -> Tensor:
    """Draw every pixel as Bernoulli(gray level): zeros and ones in the shape and dtype of ``images``."""
    return torch.bernoulli(images, generator=generator)
