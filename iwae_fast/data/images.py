"""Images as rows of a tensor, and the binarization of gray levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from numpy.typing import NDArray
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
    image_shape: tuple[int, ...]
    """Height and width in pixels, and 3 for the channels of a color image, with D their product; (1, D) for features
    that are not an image."""
    valid: Observations | None = None
    """(V, D) float32: the data set's own validation set; None if it does not have one."""
    grey_levels: bool = True
    """True if rows are gray levels in [0, 1], from which binary pixels are drawn afresh for each batch; False if rows
    are used as they are."""
    source: str = ""
    """A sentence for reports that names the files and the split."""
    labels: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Labels (N,), numbers or strings, by the parts ``train``, ``test`` and ``valid``; for plots only."""
    columns: tuple[str, ...] = ()
    """Names of the features (D,), if they come from a table."""
    missing: bool = False
    """True if NaN stands for features that were not observed."""

    def mask(self, x: Tensor) -> Tensor | None:
        """Return True where observations of this data set (B, D) have a value, or None if none is missing."""
        return ~x.isnan() if self.missing else None

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
