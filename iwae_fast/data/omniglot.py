"""OMNIGLOT: 32,460 handwritten characters of fifty alphabets (Lake, Salakhutdinov & Tenenbaum 2015) as 28x28 pixels.

``chardata.mat`` has the images and the split of Burda, Grosse & Salakhutdinov (2016), whose published likelihoods hold
only for it. ``omniglot_28x28.npz`` has all characters in another resampling, split into parts of the same sizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .extra import extra_needed_by
from .files import obtain, verify
from .formats.numpy_files import read_arrays
from .images import DataError, ImageData
from .splits import split

FOLDER = "omniglot"
MATLAB, NUMPY = "chardata.mat", "omniglot_28x28.npz"
MIRRORS = ("https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/",)

SIDE = 28
TRAIN, TEST = 24_345, 8_070
CHARACTERS = 32_460
"""Characters in the .npz file; 45 are left out, so that the split has the sizes of Burda, Grosse & Salakhutdinov's."""

IMAGES_SHA256 = "8784741eae4cf8f88abaeb9eb46d572bb89a5290c60a812e2de7b63d769b0230"
"""SHA-256 of the bytes of ``images`` in the .npz file."""

SOURCES = {
    MATLAB: "OMNIGLOT from chardata.mat with the split of Burda, Grosse & Salakhutdinov (2016); keys, shapes and range "
    "were checked, but no checksum of that file is known.",
    NUMPY: "OMNIGLOT from omniglot_28x28.npz in a seeded split of 24,345 for training and 8,070 for the test; neither "
    "the resampling nor the split is that of Burda, Grosse & Salakhutdinov (2016).",
}


class Parts(NamedTuple):
    """Training (N, 784) and test images (M, 784), float32 gray levels with ink = 1."""

    train: Tensor
    test: Tensor


def load_omniglot() -> ImageData:
    """Load gray levels with ink = 1; raises DataError if the file is damaged, or missing and not downloaded."""
    parts, name = obtain(FOLDER, (MATLAB, NUMPY), _read, remote=MATLAB, mirrors=MIRRORS)
    return ImageData("omniglot", *parts, (SIDE, SIDE), source=SOURCES[name])


def _read(path: Path, name: str) -> Parts:
    return _matlab(path) if name == MATLAB else _numpy(path)


def _numpy(path: Path) -> Parts:
    images = read_arrays(path, ("images",)).get("images")
    if images is None or images.dtype != np.uint8 or images.shape != (CHARACTERS, SIDE, SIDE):
        raise DataError(f"{path} does not have an array 'images' of uint8 {(CHARACTERS, SIDE, SIDE)}")
    verify(images.tobytes(), IMAGES_SHA256, path)
    levels = torch.from_numpy(images.reshape(CHARACTERS, -1)).float().div_(255.0)
    train, test = split(CHARACTERS, TEST, TRAIN)
    return Parts(levels[train], levels[test])


def _matlab(path: Path) -> Parts:
    with extra_needed_by(f"OMNIGLOT's {MATLAB}"):
        from scipy import io  # a dependency of scikit-learn; slow to import

    try:
        content = io.loadmat(path, appendmat=False, variable_names=["data", "testdata"])
    except Exception as error:  # SciPy raises many kinds of errors for a damaged file
        raise DataError(f"{path} is damaged or not a MATLAB file: {type(error).__name__}: {error}") from error
    return Parts(_columns(content, "data", TRAIN, path), _columns(content, "testdata", TEST, path))


def _columns(content: dict[str, Any], key: str, count: int, path: Path) -> Tensor:
    """Return rows (count, 784) from columns (784, count), each of which holds an image in Fortran order."""
    if key not in content:
        raise DataError(f"{path} does not have an array {key!r}")
    columns: NDArray[Any] = content[key]
    if columns.shape != (SIDE * SIDE, count) or columns.dtype.kind not in "buif":
        raise DataError(
            f"{path} has {key!r} of {columns.dtype} {columns.shape}, expected numbers {(SIDE * SIDE, count)}"
        )
    if not 0 <= columns.min() < columns.max() <= 1:  # false for NaN too
        raise DataError(f"{path} has {key!r} in [{columns.min()}, {columns.max()}], expected gray levels in [0, 1]")
    images = columns.T.reshape(count, SIDE, SIDE).swapaxes(1, 2).reshape(count, -1)
    return torch.from_numpy(images.astype(np.float32))
