"""Tables: CSV files, with commas, semicolons or tabs between their fields, and Parquet files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..extra import extra_needed_by
from ..images import DataError
from ..options import FileOptions
from .base import ALONE, Content, check_fits, readable
from .choose import LABELS

SEPARATORS = (",", ";", "\t")
ENCODING = "utf-8-sig"
"""UTF-8, with the mark at its beginning that spreadsheets write or without it."""

SHOWN = 6
"""The most columns that an error lists."""


def read_csv(path: Path, options: FileOptions) -> Content:
    """Return the observations of a CSV file, one per row after the names of columns, if it has these.

    Raises DataError for rows of different lengths, for text in columns that are not labels, and as
    :func:`observations`.
    """
    with extra_needed_by(f"the table {path}", "files"):
        import pandas

    errors = (UnicodeDecodeError, csv.Error, pandas.errors.ParserError, pandas.errors.EmptyDataError)
    with readable(path, "is damaged or not a CSV file", *errors):
        check_fits(path.stat().st_size, path)
        separator, has_names, width = _form(path)
        frame = pandas.read_csv(
            path,
            sep=separator,
            header=0 if has_names else None,
            index_col=False,
            encoding=ENCODING,
            na_values=[] if options.missing is None else [options.missing],
            skipinitialspace=True,
            low_memory=False,
        )
        if not has_names:
            frame.columns = pandas.Index([f"column {number}" for number in range(1, width + 1)])
    return observations(frame, path, options)


def read_parquet(path: Path, options: FileOptions) -> Content:
    """Return the observations of a Parquet file, one per row; raises DataError as :func:`observations`."""
    with extra_needed_by(f"the table {path}", "files"):
        import pandas
        from pyarrow import ArrowException, parquet

    with readable(path, "is damaged or not a Parquet file", ArrowException):
        # Opened here, because ParquetFile leaves a damaged file open.
        with path.open("rb") as opened, parquet.ParquetFile(opened) as file:
            check_fits(8 * file.metadata.num_rows * file.metadata.num_columns, path)
            frame = file.read().to_pandas()
        if options.missing is not None:
            frame = frame.replace(options.missing, np.nan).infer_objects()
        frame.columns = pandas.Index([str(name) for name in frame.columns])
    return observations(frame, path, options)


def observations(frame: Any, path: Path, options: FileOptions) -> Content:
    """Return the rows of a pandas frame as observations, without the columns of labels and of the division.

    The labels are the column that the options name, or else the one column of text whose name is usual for labels. A
    first column that numbers the rows and does not have a name, as pandas writes it, is left out.

    Raises DataError for a column that is missing, or that has text although it is a feature.
    """
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path} has two columns of the name {twice!r}")
    if not len(frame):
        raise DataError(f"{path} does not have a row of observations")
    frame = _without_row_numbers(frame)
    for asked in (options.labels, options.column):
        if asked is not None and asked not in frame and not options.optional:
            raise DataError(f"{path} does not have a column {asked!r}, only {_shown([str(name) for name in frame])}")
    division = _values(frame[options.column]) if options.column in frame else None
    labels = options.labels if options.labels in frame else None
    chosen = _features(frame, path, options)
    if options.labels is None:
        named = [name for name in chosen if name.lower() in LABELS and not _is_number(frame[name])]
        labels = named[0] if len(named) == 1 else None
    columns = [name for name in chosen if name not in (labels, options.column)]
    for name in columns:
        if not _is_number(frame[name]):
            raise DataError(_text_in(frame, name, path, options))
    if not columns:
        raise DataError(f"{path} does not have a column of numbers")
    return Content(
        {ALONE: _matrix(frame[columns])},
        {} if labels is None else {ALONE: _values(frame[labels])},
        tuple(columns),
        division,
    )


def _form(path: Path) -> tuple[str, bool, int]:
    """Return the separator of a CSV file, whether its first row has names, and the number of its columns.

    pandas fills short rows with missing values, and shifts or cuts long ones, so the lengths are checked here. Raises
    ValueError for rows of different lengths.
    """
    with _opened(path) as file:
        first = next((line for line in file if line.strip()), "")
        if not first:
            raise ValueError("it is empty")
        separator = max(SEPARATORS, key=first.count)  # the first of those that occur equally often
    with _opened(path) as file:
        rows = csv.reader(file, delimiter=separator, skipinitialspace=True)
        fields: Sequence[str] = []
        for row in rows:
            if not fields:
                fields = row
            elif row and len(row) != len(fields):
                raise ValueError(f"line {rows.line_num} has {len(row)} fields, expected {len(fields)} as in the first")
    return separator, not all(_is_written_number(field) for field in fields), len(fields)


@contextmanager
def _opened(path: Path) -> Iterator[io.TextIOBase]:
    with path.open(encoding=ENCODING, newline="") as file:
        yield file


def _is_written_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _without_row_numbers(frame: Any) -> Any:
    first = str(frame.columns[0])
    is_unnamed = not first or first.startswith("Unnamed: 0")
    values = frame.iloc[:, 0]
    if len(frame.columns) > 1 and is_unnamed and _is_number(values) and (values == np.arange(len(frame))).all():
        return frame.iloc[:, 1:]
    return frame


def _features(frame: Any, path: Path, options: FileOptions) -> list[str]:
    """Return the names of the columns that may be features: all, or those that the options list."""
    names = [str(name) for name in frame.columns]
    if options.array is None:
        return names
    asked = [name.strip() for name in options.array.split(",")]
    absent = [name for name in asked if name not in names]
    if absent and options.optional:
        return names
    if absent:
        raise DataError(f"{path} does not have a column {absent[0]!r}, only {_shown(names)}")
    return asked


def _is_number(column: Any) -> bool:
    return getattr(column.dtype, "kind", "O") in "buif"


def _matrix(frame: Any) -> NDArray[Any]:
    """Return columns of numbers as one array: of bytes or bools if all are, else float32, with NaN where a value is
    missing."""
    dtypes = {column.dtype for _, column in frame.items()}
    is_plain = dtypes in ({np.dtype(np.uint8)}, {np.dtype(np.bool_)})
    with np.errstate(over="ignore"):  # overflow gives an infinity, which loading rejects
        return np.ascontiguousarray(
            frame.to_numpy() if is_plain else frame.to_numpy(dtype=np.float32, na_value=np.float32(np.nan))
        )


def _values(column: Any) -> NDArray[Any]:
    """Return a column of numbers or of text as an array; missing text becomes empty."""
    if _is_number(column) and not column.isna().any():
        return np.asarray(column.to_numpy())
    return np.asarray([("" if missing else str(value)) for value, missing in zip(column, column.isna(), strict=True)])


def _text_in(frame: Any, name: str, path: Path, options: FileOptions) -> str:
    column = frame[name]
    texts = (str(value) for value, missing in zip(column, column.isna(), strict=True) if not missing)
    text = next((text for text in texts if not _is_written_number(text)), str(column.dtype))
    others = "" if options.missing is not None else f", or --missing {text!r} if that stands for missing values"
    return (
        f"{path} has {text!r} in column {name!r}, expected numbers: choose columns by --array, or keep this one as "
        f"labels by --labels {name}{others}"
    )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
