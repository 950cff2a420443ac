"""Images as rows of a tensor, and the draw that makes grey levels binary."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .rows import Observations, fingerprint


class DataError(RuntimeError):
    """A data file is missing, damaged or not what it should be; the message names it."""


@dataclass(frozen=True)
class ImageData:
    """A data set, its observations flattened to rows.

    Rows are float32 tensors, or :class:`.rows.Rows`, which give such tensors when they are indexed.
    """

    name: str
    train: Observations
    """(N, D) float32."""
    test: Observations
    """(M, D) float32."""
    image_shape: tuple[int, int]
    """Height and width in pixels, with D their product; (1, D) for features that are no image."""
    valid: Observations | None = None
    """(V, D) float32: the data set's own validation set, where it has one."""
    grey_levels: bool = True
    """Whether rows are grey levels in [0, 1], of which binary pixels are drawn afresh for each batch; otherwise they
    are used as they are."""
    source: str = ""
    """One sentence for reports: which files, and which split."""

    @cached_property
    def train_fingerprint(self) -> str:
        """The digest by which a run knows its training observations again."""
        return fingerprint(self.train)

    @cached_property
    def test_fingerprint(self) -> str:
        """The digest by which a run knows its test observations again."""
        return fingerprint(self.test)


def binarize(images: Tensor, generator: torch.Generator) -> Tensor:
    """A fresh draw of every pixel as Bernoulli(grey level): zeros and ones in the shape and dtype of ``images``."""
    return torch.bernoulli(images, generator=generator)
