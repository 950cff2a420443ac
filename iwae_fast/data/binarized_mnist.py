"""The fixed binarization of MNIST (Larochelle & Murray 2011): 28x28 pixels drawn once, 50,000 + 10,000 + 10,000 images.

It is read from three text files, with one row "0 1 ..." per image, or from one file of packed bits.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .files import obtain, verify
from .formats.numpy_files import read_arrays
from .images import DataError, ImageData

FOLDER = "binarized_mnist"
PACKED = "binarized_mnist_packed.npz"
PIXELS = 28 * 28

MIRRORS = ("http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",)

IMAGES = {"train": 50_000, "valid": 10_000, "test": 10_000}

# Digests of the packed bits (eight pixels per byte, the first one in the highest bit), so that both formats share them.
SHA256 = {
    "train": "727146c35424b019f3e350e1e69faa05644a0abaf787e3f4e1a9632220a13906",
    "valid": "a256ac44ae26be720fad8616a05ed6ecfd1619930d9a208379bb2a4405df5b6d",
    "test": "9fcd8da6f0fdf09b2ba30fe63a0bb784042a0de82563172530229b983e294ff2",
}


def load_binarized_mnist() -> ImageData:
    """Load the set of zeros and ones; raises DataError if a file is damaged, or missing and not downloaded."""
    (train, name), (valid, _), (test, _) = map(_part, IMAGES)
    form = "packed bits" if name == PACKED else "the text files"
    source = f"MNIST in the fixed binarization of Larochelle & Murray (2011), from {form}, with their split."
    return ImageData("binarized-mnist", train, test, (28, 28), valid, grey_levels=False, source=source)


def _part(part: str) -> tuple[Tensor, str]:
    text = f"binarized_mnist_{part}.amat"
    return obtain(FOLDER, (PACKED, text), partial(_read, part), remote=text, mirrors=MIRRORS)


def _read(part: str, path: Path, name: str) -> Tensor:
    packed = _packed(path, part) if name == PACKED else _parse(path, part)
    verify(packed.tobytes(), SHA256[part], path)
    return torch.from_numpy(np.unpackbits(packed, axis=1)).float()


def _packed(path: Path, part: str) -> NDArray[np.uint8]:
    arrays = read_arrays(path, (part,))
    if part not in arrays:
        raise DataError(f"{path} does not have an array {part!r}")
    packed, shape = arrays[part], (IMAGES[part], PIXELS // 8)
    if packed.dtype != np.uint8 or packed.shape != shape:
        raise DataError(f"{path} has {part!r} of {packed.dtype} {packed.shape}, expected uint8 {shape}")
    return packed


def _parse(path: Path, part: str) -> NDArray[np.uint8]:
    """Return the packed bits (N, 98) of a text file, which np.loadtxt would take minutes to read."""
    characters = np.frombuffer(path.read_bytes(), np.uint8)
    digits = characters[characters > ord(" ")] - ord("0")
    if len(digits) != IMAGES[part] * PIXELS:
        raise DataError(f"{path} has {len(digits)} pixels, expected {IMAGES[part]} images of {PIXELS}")
    if digits.max() > 1:
        raise DataError(f"{path} has values other than 0 and 1")
    return np.packbits(digits.reshape(-1, PIXELS), axis=1)
