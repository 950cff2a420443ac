"""Division of the observations of users' files into training, test and validation parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .formats import ALONE, PARTS, Content, read_content
from .formats.choose import divided_by_words
from .images import DataError
from .layouts import arranged
from .options import FileOptions
from .rows import Rows
from .splits import split

Order = NDArray[np.int64] | None
"""Indices of the rows of a part; all rows if None."""


@dataclass(frozen=True)
class Division:
    """The parts of a data set, from one or two files."""

    parts: Mapping[str, Rows]
    """The parts ``train``, ``test`` and perhaps ``valid``."""
    source: str
    """A sentence that names the files and the division."""
    labels: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Labels by part, in the order of its rows."""
    columns: tuple[str, ...] = ()
    """Names of the features of a table."""
    name: str = ""
    """Name of the array of which the parts are rows; empty if parts have arrays of their own, or it has no name."""

    def called(self, part: str) -> str:
        """Return the name of a part's array for errors."""
        is_one = len({id(rows.stored) for rows in self.parts.values()}) == 1
        return (self.name or "an array") if is_one else part


def divide(path: Path, options: FileOptions) -> Division:
    """Read a file, and the file of the test set if the options name one, and divide the observations.

    Raises DataError if the files do not have observations for training and for the test, or if their shapes, dtypes or
    columns differ.
    """
    content = arranged(read_content(path, options), path)
    division = _divided(content, path, options)
    first, *others = division.parts
    expected = division.parts[first].stored
    for part in others:
        stored = division.parts[part].stored
        if (stored.shape[1:], stored.dtype) != (expected.shape[1:], expected.dtype):
            raise DataError(
                f"{path if options.test is None else options.test} has {part} of {stored.dtype} {tuple(stored.shape)}, "
                f"expected {expected.dtype} (N, {', '.join(map(str, expected.shape[1:]))}) as for {first}"
            )
    return division


def _divided(content: Content, path: Path, options: FileOptions) -> Division:
    if options.test is not None:
        return _with_test_file(content, path, options)
    if ALONE not in content.parts:
        return _own_parts(content, path, options)
    if content.division is not None:
        return _by_column(content, content.division, path, options)
    count = len(content.parts[ALONE])
    if options.unsplit:
        return _ordered(content, {"train": None, "test": None}, f"{path.name}, all {count:,} observations.")
    if count < 2:
        raise DataError(f"{path} has a single observation, expected at least 2 for a split")
    wanted = count // 10 if options.fraction is None else round(options.fraction * count)
    train, test = split(count, min(max(1, wanted), count - 1))
    source = f"{path.name}, a seeded split of {len(train):,} for training and {len(test):,} for the test."
    return _ordered(content, {"train": train.numpy(), "test": test.numpy()}, source)


def _own_parts(content: Content, path: Path, options: FileOptions) -> Division:
    """Return the parts that a file names."""
    if options.split is not None and not options.optional:
        raise DataError(
            f"{path} has its own split into {' and '.join(content.parts)}, so split {options.split!r} has no effect"
        )
    parts = {part: Rows(content.parts[part]) for part in PARTS if part in content.parts}
    source = f"{path.name} with its own split."
    if "train" not in parts and options.unsplit and "test" in parts:
        parts, source = {"train": parts["test"], **parts}, f"{path.name}, its test array."
    return Division(_complete(parts, path), source, content.labels, content.columns)


def _by_column(content: Content, values: NDArray[Any], path: Path, options: FileOptions) -> Division:
    """Divide the observations of a file by the values of a column."""
    column = str(options.column)
    words = divided_by_words(values, path, column)
    order: dict[str, Order] = {part: rows for part in PARTS if len(rows := np.flatnonzero(words == part))}
    if options.unsplit:
        order = {"train": order.get("test"), "test": order.get("test")}
    counts = ", ".join(f"{np.sum(words == part):,} for {part}" for part in PARTS if part in words)
    division = _ordered(content, order, f"{path.name}, divided by {column}: {counts}.")
    _complete(division.parts, path, f" in {column}")
    return division


def _with_test_file(content: Content, path: Path, options: FileOptions) -> Division:
    """Return the training part of a file and, as the test part, the test part or all observations of another file."""
    other_path = Path(str(options.test)).expanduser()
    if options.split is not None:
        raise DataError(f"split {options.split!r} has no effect beside the test file {other_path}: give one of them")
    read = FileOptions(None, None, options.labels, options.array, options.missing, unsplit=True)
    other = arranged(read_content(other_path, read), other_path)
    if content.columns != other.columns:
        differing = sorted(set(content.columns) ^ set(other.columns)) or ["the order of columns"]
        raise DataError(f"{other_path} must have the columns of {path}, which differ in {', '.join(differing)}")
    parts: dict[str, Rows] = {}
    labels: dict[str, NDArray[Any]] = {}
    for part in PARTS:
        source, key = (other, part) if part == "test" else (content, part)
        if key not in source.parts and part != "valid":
            key = ALONE
        if key in source.parts:
            parts[part] = Rows(source.parts[key])
        if key in source.labels:
            labels[part] = source.labels[key]
    source_text = f"{path.name}, with the test set of {other_path.name}."
    return Division(_complete(parts, path), source_text, labels, content.columns)


def _ordered(content: Content, order: Mapping[str, Order], source: str) -> Division:
    """Return parts that are rows of one array, with their labels."""
    labels = content.labels.get(ALONE)
    return Division(
        {part: Rows(content.parts[ALONE], rows) for part, rows in order.items()},
        source,
        {} if labels is None else {part: labels if rows is None else labels[rows] for part, rows in order.items()},
        content.columns,
        content.name,
    )


def _complete(parts: Mapping[str, Rows], path: Path, where: str = "") -> Mapping[str, Rows]:
    for part in ("train", "test"):
        if part not in parts:
            raise DataError(f"{path} does not have observations for {part}{where}, only for {' and '.join(parts)}")
    return parts
