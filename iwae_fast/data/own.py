"""Data sets from users' files: what their numbers mean."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .division import divide
from .images import DataError, ImageData
from .layouts import image_shape
from .options import FileOptions
from .rows import Rows

LARGEST_BYTE = 255.0


def load_own(name: str, options: FileOptions | None = None) -> ImageData:
    """Load a data set from a file or a folder of images.

    The numbers stay in the dtype of the file, and those of large arrays in the file itself where its format allows it,
    until rows are indexed: :class:`.rows.Rows`.

    Bytes are divided by 255 if one of them is above 1, unless the options say otherwise. Values in [0, 1] that are not
    all zero or one are then gray levels; all others are used as they are.

    Args:
        name: path of the file, which is also the name of the data set.
        options: the parts of the file to read, and what its numbers mean.

    Raises:
        DataError: the file is missing or damaged, or holds anything else: objects (which are never unpickled),
            infinity, NaN unless it stands for missing values, no observations, parts of different shapes or dtypes.
        ModuleNotFoundError: the format needs a package of the ``files`` extra that is not installed.
    """
    options = options or FileOptions()
    path = Path(name).expanduser()
    division = divide(path, options)

    def rows_of(part: Rows, divisor: float | None) -> Rows:
        return Rows(part.stored, part.order, divisor, options.marker)

    # Parts that are rows of one array share it, so its values are read once.
    arrays = {id(rows.stored): (Rows(rows.stored), part) for part, rows in division.parts.items()}
    values = [
        _values(rows_of(rows, options.divide_by), division.called(part), path, division.columns)
        for rows, part in arrays.values()
    ]
    stored = division.parts["train"].stored
    highest = max(value.highest for value in values)
    is_gray = not options.whole_numbers and options.divide_by is None and stored.dtype == np.uint8 and highest > 1
    unit = is_gray or (highest <= 1 and all(value.lowest >= 0 for value in values))
    binary = all(value.only_extremes if is_gray else value.binary for value in values)
    divisor = LARGEST_BYTE if is_gray else options.divide_by
    parts = {part: rows_of(rows, divisor) for part, rows in division.parts.items()}
    return ImageData(
        name,
        parts["train"],
        parts["test"],
        image_shape(stored, unit),
        parts.get("valid"),
        grey_levels=unit and not binary,
        source=division.source,
        labels=division.labels,
        columns=division.columns,
        missing=options.marker is not None,
    )


class _Values(NamedTuple):
    """Statistics of the values of an array."""

    lowest: float
    highest: float
    binary: bool
    """True if all values are 0 or 1."""
    only_extremes: bool
    """True if all values are 0 or 255."""


def _values(rows: Rows, name: str, path: Path, columns: tuple[str, ...]) -> _Values:
    """Read every value once; raises DataError if one is not finite, and not missing either."""
    lowest, highest, binary, only_extremes = math.inf, -math.inf, True, True
    first = 0
    for chunk in rows.chunks():
        low, high = (value.item() for value in chunk.aminmax())  # both are NaN if any value is
        values = chunk
        if math.isnan(low):
            if rows.missing is None:
                raise DataError(_not_a_number(chunk, first, name, path, columns))
            values = chunk[~chunk.isnan()]
            if len(values):
                low, high = (value.item() for value in values.aminmax())
        first += len(chunk)
        if not len(values):
            continue
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError(f"{path} has infinity or numbers beyond float32 in {name}")
        lowest, highest = min(lowest, low), max(highest, high)
        binary = binary and bool(((values == 0) | (values == 1)).all())
        only_extremes = only_extremes and bool(((values == 0) | (values == LARGEST_BYTE)).all())
    if lowest > highest:
        raise DataError(f"{path} does not have an observed value in {name}: all are missing")
    return _Values(lowest, highest, binary, only_extremes)


def _not_a_number(chunk: Tensor, first: int, name: str, path: Path, columns: tuple[str, ...]) -> str:
    row, feature = torch.nonzero(chunk.isnan())[0].tolist()
    where = f"column {columns[feature]!r}" if columns else name
    return (
        f'{path} has NaN in {where}, in row {first + row} (from 0): --missing nan (missing="nan" in Python) takes such '
        "values as not observed"
    )
