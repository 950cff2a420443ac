"""Likelihoods of images in bits per dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..pictures.pictures import are_images


def bits_per_dimension(nll: float, shape: Sequence[int]) -> float | None:
    """Return a negative log-likelihood in nats per image as bits per pixel (and channel), for observations of a shape;
    None for features that are not an image.

    With a density, such as of gray levels in [0, 1], it is a differential entropy, and may be negative.
    """
    return nll / (math.prod(shape) * math.log(2.0)) if are_images(shape) else None
