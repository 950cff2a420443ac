"""Images as rows of a tensor, and the draw that makes grey levels binary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class DataError(RuntimeError):
    """A data file is missing, damaged or not what it should be; the message names it."""


@dataclass(frozen=True)
class ImageData:
    """A data set, its observations flattened to rows."""

    name: str
    train: Tensor
    """(N, D) float32."""
    test: Tensor
    """(M, D) float32."""
    image_shape: tuple[int, int]
    """Height and width in pixels, with D their product; (1, D) for features that are no image."""
    valid: Tensor | None = None
    """(V, D) float32: the data set's own validation set, where it has one."""
    grey_levels: bool = True
    """Whether rows are grey levels in [0, 1], of which binary pixels are drawn afresh for each batch; otherwise they
    are used as they are."""
    source: str = ""
    """One sentence for reports: which files, and which split."""


def binarize(images: Tensor, generator: torch.Generator) -> Tensor:
    """A fresh draw of every pixel as Bernoulli(grey level): zeros and ones in the shape and dtype of ``images``."""
    return torch.bernoulli(images, generator=generator)
