"""User data from a NumPy file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arrays import read_arrays
from .images import DataError, ImageData
from .rows import Rows
from .splits import split

SINGLE = ("", "x", "data")
"""Names of a single array, which is split here; the array of a .npy file has the empty name."""
PARTS = ("train", "test", "valid")
LARGEST_BYTE = 255.0


def load_own(name: str, whole_numbers: bool = False, unsplit: bool = False) -> ImageData:
    """Load a data set from a .npz file with ``train``, ``test`` and optionally ``valid``, or from one array.

    One array, in a .npy file or as ``x`` or ``data`` in a .npz file, is split by a fixed permutation: a tenth of the
    observations, but at least one, is the test set.

    The numbers stay in the dtype of the file, and large arrays (:data:`.arrays.MAPPED_FROM`) in the file itself, until
    rows are indexed: :class:`.rows.Rows`.

    Arrays are (N, D) or (N, height, width) of bool, integers or floats. Bytes are divided by 255 if one of them is
    above 1, unless ``whole_numbers``. Values in [0, 1] that are not all zero or one are then gray levels; all others
    are used as they are.

    Args:
        name: path of the file, which is also the name of the data set.
        whole_numbers: treat bytes as counts or classes.
        unsplit: use all of a single array as the test set, and as the training set too; a .npz file does not need
            ``train`` then.

    Raises DataError if the file is missing or damaged, or holds anything else: objects (which are never unpickled),
    NaN or infinity, no observations, arrays of different shapes or dtypes, color images.
    """
    path = Path(name).expanduser()
    arrays = read_arrays(path, PARTS + SINGLE, mapped=True)
    for key, array in arrays.items():
        _check(array, key or "an array", path)
    parts, source = _parts(arrays, path, unsplit)
    first = next(iter(parts))
    shape, dtype = parts[first].stored.shape[1:], parts[first].stored.dtype
    for part, rows in parts.items():
        array = rows.stored
        if array.shape[1:] != shape or array.dtype != dtype:
            raise DataError(
                f"{path} has {part} of {array.dtype} {array.shape}, expected {dtype} (N, {', '.join(map(str, shape))}) "
                f"as for {first}"
            )
    # Parts split from one array share it, so its values are read once.
    values = [_values(Rows(array), key, path) for key, array in arrays.items()]
    highest = max(value.highest for value in values)
    gray_bytes = not whole_numbers and dtype == np.uint8 and highest > 1
    if gray_bytes:
        parts = {part: Rows(rows.stored, rows.order, LARGEST_BYTE) for part, rows in parts.items()}
    unit = gray_bytes or (highest <= 1 and all(value.lowest >= 0 for value in values))
    binary = all(value.only_extremes if gray_bytes else value.binary for value in values)
    return ImageData(
        name,
        parts["train"],
        parts["test"],
        _image_shape(shape, unit),
        parts.get("valid"),
        grey_levels=unit and not binary,
        source=source,
    )


class _Values(NamedTuple):
    """Statistics of the values of an array."""

    lowest: float
    highest: float
    binary: bool
    """True if all values are 0 or 1."""
    only_extremes: bool
    """True if all values are 0 or 255."""


def _values(rows: Rows, name: str, path: Path) -> _Values:
    """Read every value once; raises DataError if one is not finite."""
    lowest, highest, binary, only_extremes = math.inf, -math.inf, True, True
    for chunk in rows.chunks():
        low, high = (value.item() for value in chunk.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):  # both are NaN if any value is
            raise DataError(f"{path} has NaN, infinity or numbers beyond float32 in {name or 'an array'}")
        lowest, highest = min(lowest, low), max(highest, high)
        binary = binary and bool(((chunk == 0) | (chunk == 1)).all())
        only_extremes = only_extremes and bool(((chunk == 0) | (chunk == LARGEST_BYTE)).all())
    return _Values(lowest, highest, binary, only_extremes)


def _check(array: NDArray[Any], name: str, path: Path) -> None:
    if array.dtype.kind not in "buif":
        raise DataError(f"{path} has {name} of {array.dtype}, expected bool, integers or floats")
    if array.ndim == 4:
        raise DataError(f"{path} has {name} of shape {array.shape}: color images are not supported, only one channel")
    if array.ndim not in (2, 3):
        raise DataError(f"{path} has {name} of shape {array.shape}, expected (N, D) or (N, height, width)")
    if array.size == 0:
        raise DataError(f"{path} has {name} of shape {array.shape}, which is empty")


def _parts(arrays: dict[str, NDArray[Any]], path: Path, unsplit: bool) -> tuple[dict[str, Rows], str]:
    """Return the rows of each part, and a sentence that names their source."""
    if {"train", "test"} <= arrays.keys() <= set(PARTS):
        return {part: Rows(array) for part, array in arrays.items()}, f"{path.name} with its own split."
    if unsplit and "test" in arrays and arrays.keys() <= set(PARTS):
        return dict.fromkeys(("train", "test"), Rows(arrays["test"])), f"{path.name}, its test array."
    if len(arrays) != 1 or not arrays.keys() <= set(SINGLE):
        found = ", ".join(arrays) or "none of these"
        raise DataError(f"{path} must have train and test (and optionally valid), or one of x and data, got {found}")
    (array,) = arrays.values()
    if unsplit:
        return dict.fromkeys(("train", "test"), Rows(array)), f"{path.name}, all {len(array):,} observations."
    if len(array) < 2:
        raise DataError(f"{path} has a single observation, expected at least 2 for a split")
    train, test = split(len(array), max(1, len(array) // 10))
    source = f"{path.name}, a seeded split of {len(train):,} for training and {len(test):,} for the test."
    return {"train": Rows(array, train.numpy()), "test": Rows(array, test.numpy())}, source


def _image_shape(shape: tuple[int, ...], unit: bool) -> tuple[int, int]:
    """Return the height and width: given, or of a square if rows are a square number of values in [0, 1]."""
    if len(shape) == 2:
        return shape[0], shape[1]
    side = math.isqrt(shape[0])
    return (side, side) if unit and side * side == shape[0] else (1, shape[0])
