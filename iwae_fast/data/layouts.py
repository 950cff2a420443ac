"""Axes of arrays of observations: rows of features, gray images, and color images."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from .formats import Content
from .images import DataError
from .stored import ChannelsLast, Stored

GRAY, COLOR = 1, 3
"""Numbers of channels of images."""


def arranged(content: Content, path: Path) -> Content:
    """Return the content with color images as (N, height, width, 3), and gray ones without an axis of channels.

    Raises DataError for arrays that are not observations: of other dtypes than bool, integers and floats, of other
    shapes than (N, D), (N, height, width) and images with one or three channels, or empty ones.
    """
    return replace(content, parts={part: _arranged(stored, part, path) for part, stored in content.parts.items()})


def image_shape(stored: Stored, unit: bool) -> tuple[int, ...]:
    """Return the height and width of an observation, and the number 3 of its channels if it has colors.

    The height and width are those of the array, or those of a square if rows are a square number of values in [0, 1],
    or (1, D).

    Args:
        stored: an array of :func:`arranged` content.
        unit: True if all values are in [0, 1].
    """
    shape = tuple(stored.shape[1:])
    if len(shape) == 3:
        return shape if shape[2] == COLOR else shape[:2]
    if len(shape) == 2:
        return shape
    side = math.isqrt(shape[0])
    return (side, side) if unit and side * side == shape[0] else (1, shape[0])


def _arranged(stored: Stored, part: str, path: Path) -> Stored:
    name, shape = part or "an array", tuple(stored.shape)
    if stored.dtype.kind not in "buif":
        raise DataError(f"{path} has {name} of {stored.dtype}, expected bool, integers or floats")
    is_image = len(shape) == 4 and (shape[3] in (GRAY, COLOR) or shape[1] in (GRAY, COLOR))
    if len(shape) not in (2, 3) and not is_image:
        raise DataError(
            f"{path} has {name} of shape {shape}, expected (N, D), (N, height, width), or images with one or three "
            "channels, (N, height, width, 3) or (N, 3, height, width)"
        )
    if 0 in shape:
        raise DataError(f"{path} has {name} of shape {shape}, which is empty")
    # A single channel is more likely than images of one row or column.
    if is_image and (shape[1] == GRAY or shape[3] not in (GRAY, COLOR)):
        return ChannelsLast(stored)
    return stored.view(np.ndarray) if isinstance(stored, np.ndarray) else stored
