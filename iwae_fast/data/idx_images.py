"""What MNIST and the data sets in its form share: two IDX files of images, plain or gzip-compressed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .files import obtain
from .idx import decompress, parse_images
from .images import DataError

TRAIN, TEST = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"
SIDE = 28


class IdxFile(NamedTuple):
    """A file that was read, for a check."""

    path: Path
    part: str
    """TRAIN or TEST."""
    stored: bytes
    content: bytes
    """What is stored, decompressed if need be."""
    compressed: bool
    images: int
    """How many."""


def load_images(folder: str, mirrors: Sequence[str], check: Callable[[IdxFile], None]) -> tuple[Tensor, Tensor]:
    """Training and test images of a data set, grey levels = bytes / 255.

    Args:
        folder: the data set's.
        mirrors: addresses of folders that have TRAIN.gz and TEST.gz.
        check: raises a DataError where a file is not the right one.

    Returns (N, 784) and (M, 784), float32. Raises DataError.
    """
    return _load(folder, TRAIN, mirrors, check), _load(folder, TEST, mirrors, check)


def _load(folder: str, part: str, mirrors: Sequence[str], check: Callable[[IdxFile], None]) -> Tensor:
    compressed = f"{part}.gz"
    images, _ = obtain(folder, (part, compressed), partial(_read, part, check), remote=compressed, mirrors=mirrors)
    return images


def _read(part: str, check: Callable[[IdxFile], None], path: Path, name: str) -> Tensor:
    stored, compressed = path.read_bytes(), name.endswith(".gz")
    content = decompress(stored, path) if compressed else stored
    levels = parse_images(content, path)
    if levels.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{path} has images of {levels.shape[1:]} pixels, expected {(SIDE, SIDE)}")
    check(IdxFile(path, part, stored, content, compressed, len(levels)))
    return torch.from_numpy(levels.reshape(len(levels), -1).astype(np.float32)).div_(255.0)
