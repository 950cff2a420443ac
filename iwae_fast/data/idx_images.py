"""Reader shared by MNIST and the data sets in its format: two IDX files of images, plain or gzip-compressed."""

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
    """A file that was read and is to be checked."""

    path: Path
    part: str
    """TRAIN or TEST."""
    stored: bytes
    content: bytes
    """``stored``, decompressed if it is compressed."""
    compressed: bool
    images: int
    """Number of images."""


def load_images(folder: str, mirrors: Sequence[str], check: Callable[[IdxFile], None]) -> tuple[Tensor, Tensor]:
    """Load the training and test images of a data set as gray levels, bytes / 255.

    Args:
        folder: folder of the data set.
        mirrors: URLs of folders that have TRAIN.gz and TEST.gz.
        check: raises DataError if a file is not the right one.

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
