"""Data of one's own, from a NumPy file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .arrays import read_arrays
from .images import DataError, ImageData
from .splits import split

SINGLE = ("", "x", "data")
"""Names of an array that is yet to be split; that of a .npy file's is empty."""
PARTS = ("train", "test", "valid")


def load_own(name: str, whole_numbers: bool = False) -> ImageData:
    """A data set from a .npz file with ``train``, ``test`` and perhaps ``valid``, or from one array.

    One array, in a .npy file or as ``x`` or ``data`` in a .npz file, is split by a fixed permutation: a tenth of the
    observations, but at least one, is the test set.

    Arrays are (N, D) or (N, height, width) of bool, integers or floats. Bytes of which one is above 1 are divided by
    255, unless ``whole_numbers``. Values in [0, 1] that are not all zero or one are then grey levels; anything else is
    used as it is.

    Args:
        name: the file's path, which is the data set's name.
        whole_numbers: take bytes for counts or classes.

    Raises DataError where the file is missing, damaged or holds something else than that: objects (which are never
    unpickled), NaN or infinity, no observations, arrays that do not go together, colour images.
    """
    path = Path(name).expanduser()
    arrays = read_arrays(path, PARTS + SINGLE)
    for key, array in arrays.items():
        _check(array, key or "an array", path)
    parts, source = _parts(arrays, path)
    shape, dtype = parts["train"].shape[1:], parts["train"].dtype
    for part, array in parts.items():
        if array.shape[1:] != shape or array.dtype != dtype:
            raise DataError(
                f"{path} has {part} of {array.dtype} {array.shape}, expected {dtype} (N, {', '.join(map(str, shape))}) "
                "as for train"
            )
    rows = _rows(parts, path, whole_numbers)
    unit = all(bool(((values >= 0) & (values <= 1)).all()) for values in rows.values())
    binary = all(bool(((values == 0) | (values == 1)).all()) for values in rows.values())
    return ImageData(
        name,
        rows["train"],
        rows["test"],
        _image_shape(shape, unit),
        rows.get("valid"),
        grey_levels=unit and not binary,
        source=source,
    )


def _check(array: NDArray[Any], name: str, path: Path) -> None:
    if array.dtype.kind not in "buif":
        raise DataError(f"{path} has {name} of {array.dtype}, expected bool, integers or floats")
    if array.ndim == 4:
        raise DataError(f"{path} has {name} of shape {array.shape}: colour images are not supported, only one channel")
    if array.ndim not in (2, 3):
        raise DataError(f"{path} has {name} of shape {array.shape}, expected (N, D) or (N, height, width)")
    if array.size == 0:
        raise DataError(f"{path} has {name} of shape {array.shape}, which is empty")


def _parts(arrays: dict[str, NDArray[Any]], path: Path) -> tuple[dict[str, NDArray[Any]], str]:
    """The arrays by part, and a sentence on where they come from."""
    if {"train", "test"} <= arrays.keys() <= set(PARTS):
        return arrays, f"{path.name} with its own split."
    if len(arrays) != 1 or not arrays.keys() <= set(SINGLE):
        found = ", ".join(arrays) or "none of them"
        raise DataError(f"{path} must have train and test (and perhaps valid), or one of x and data; it has {found}")
    (array,) = arrays.values()
    if len(array) < 2:
        raise DataError(f"{path} has a single observation, expected two or more, for a split")
    train, test = split(len(array), max(1, len(array) // 10))
    source = f"{path.name}, a seeded split of {len(train):,} for training and {len(test):,} for the test."
    return {"train": array[train.numpy()], "test": array[test.numpy()]}, source


def _rows(parts: dict[str, NDArray[Any]], path: Path, whole_numbers: bool) -> dict[str, Tensor]:
    """Rows of float32, bytes that are grey levels divided by 255."""
    is_grey = not whole_numbers and any(array.dtype == np.uint8 and array.max() > 1 for array in parts.values())
    rows = {}
    for part, array in parts.items():
        with np.errstate(over="ignore"):  # to an infinity, which the next line finds
            values = torch.from_numpy(array.reshape(len(array), -1).astype(np.float32, order="C"))
        if not values.isfinite().all():
            raise DataError(f"{path} has NaN, infinity or numbers beyond float32 in {part}")
        rows[part] = values.div_(255.0) if is_grey else values
    return rows


def _image_shape(shape: tuple[int, ...], unit: bool) -> tuple[int, int]:
    """Height and width: given, or those of a square for rows of a square number of values in [0, 1]."""
    if len(shape) == 2:
        return shape[0], shape[1]
    side = math.isqrt(shape[0])
    return (side, side) if unit and side * side == shape[0] else (1, shape[0])
