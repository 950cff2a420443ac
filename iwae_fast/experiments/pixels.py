"""What a model is shown of an image."""

from __future__ import annotations

import hashlib

from torch import Tensor

from ..data import binarize
from ..seeds import Purpose, generator


def as_pixels(images: Tensor, grey_levels: bool, seed: int, purpose: Purpose, *indices: int) -> Tensor:
    """A fresh draw of every pixel as Bernoulli(grey level), the same for the same seed, purpose and indices; rows that
    are no grey levels are what they are."""
    if not grey_levels:
        return images
    return binarize(images, generator(seed, purpose, *indices, device=images.device))


def fingerprint(images: Tensor) -> str:
    """The same for the same images in the same order, and for no others."""
    return hashlib.sha256(f"{tuple(images.shape)}".encode() + images.cpu().contiguous().numpy().tobytes()).hexdigest()
