"""The IDX format of the MNIST files: a big-endian header, then bytes."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .images import DataError

IMAGES_MAGIC = 0x00000803
"""Unsigned bytes (0x08) in three dimensions (0x03): image, row, column."""

HEADER_BYTES = 16


def decompress(content: bytes, path: Path) -> bytes:
    """Decompress a gzip file; raises DataError naming ``path`` if it is damaged."""
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}") from error


def parse_images(content: bytes, path: Path) -> NDArray[np.uint8]:
    """Return the gray levels (N, height, width) in an IDX file; raises DataError naming ``path`` if it is not one."""
    if len(content) < HEADER_BYTES:
        raise DataError(f"{path} is truncated: {len(content)} bytes, expected an IDX header of {HEADER_BYTES}")
    magic, *shape = (int(word) for word in np.frombuffer(content, ">u4", 4))
    if magic != IMAGES_MAGIC:
        raise DataError(f"{path} does not hold IDX images: magic number 0x{magic:08x}, expected 0x{IMAGES_MAGIC:08x}")
    expected = HEADER_BYTES + math.prod(shape)
    if len(content) != expected:
        raise DataError(f"{path} has {len(content)} bytes, expected {expected} by its header")
    return np.frombuffer(content, np.uint8, offset=HEADER_BYTES).reshape(shape)
