"""The choice of the arrays of a file that are observations and labels, by their names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..images import DataError
from ..options import FileOptions
from ..stored import Stored
from .base import ALONE, PARTS, Archive, Content, listed, vector

WORDS = {"train": ("train", "training"), "test": ("test", "testing"), "valid": ("valid", "validation", "val")}
"""Words for the parts, in names of arrays, as values of a column that divides observations, and as names of folders."""

OBSERVATIONS = ("x", "data", "images", "features")
LABELS = ("y", "label", "labels", "target", "targets", "class", "classes")
"""Names of arrays, without underscores: alone, or together with a word for a part, as in x_train and train_labels."""


def choose(archive: Archive, path: Path, options: FileOptions) -> Content:
    """Return the observations of a file of arrays with their labels.

    Raises DataError that lists the arrays of the file if the choice is not clear, or if one that was asked for by its
    name is missing or does not have one entry per observation.
    """
    shapes = archive.shapes
    keys = _observations(shapes, path, options)
    parts = {part: archive.read(key) for part, key in keys.items()}
    counts = {part: len(shapes[key]) and shapes[key][0] for part, key in keys.items()}
    labels: dict[str, NDArray[Any]] = {}
    for part, key in _labels(shapes, keys, path, options).items():
        try:
            found = _vector(archive, key, counts[part])
        except DataError:  # such as objects, which are not read, in an array that nobody asked for
            if options.labels is not None:
                raise
            continue
        if found is not None:
            labels[part] = found
        elif options.labels is not None:
            raise DataError(f"{path} has {key} {shapes[key]}, expected {counts[part]} labels, one per observation")
    division = None
    if options.column is not None and ALONE in parts:
        division = _division(archive, path, options, counts[ALONE])
    return Content(parts, labels, division=division, name=", ".join(key for key in keys.values() if key))


def divided_by_words(values: Iterable[Any], path: Path, column: str) -> NDArray[np.str_]:
    """Return the part of each observation, from the values of a column: words, or 0 for training and 1 for the test.

    Raises DataError for any other value.
    """
    array = np.asarray(list(values))
    words: dict[Any, str] = {0: "train", 1: "test"}
    if array.dtype.kind not in "buif":
        array = np.char.strip(np.char.lower(array.astype(str)))
        words = {word: part for part, several in WORDS.items() for word in several}
    found = np.full(array.shape, "", dtype="<U5")
    for value, part in words.items():
        found[array == value] = part
    if (found == "").any():
        wrong = array[found == ""][0]
        raise DataError(
            f"{path} has {wrong!s} in {column}, expected train, test or valid, or 0 for training and 1 for the test"
        )
    return found


def _observations(shapes: Mapping[str, tuple[int, ...]], path: Path, options: FileOptions) -> dict[str, str]:
    """Return the keys of the arrays of observations, by part."""
    asked = options.array
    if asked is not None:
        if asked in shapes:
            return {ALONE: asked}
        parts = _parts(shapes, [_plain(asked)])
        if parts:
            return _unambiguous(parts, shapes, path)
        if not options.optional:
            raise DataError(f"{path} does not have an array {asked!r}, only {listed(shapes)}")
    if shapes.keys() == {ALONE}:
        return {ALONE: ALONE}
    parts = _parts(shapes, OBSERVATIONS, bare=True)
    single = [key for key, shape in shapes.items() if _plain(key) in OBSERVATIONS or _is_unnamed(key, shape)]
    if not parts and not single:
        labels = {key for keys in _parts(shapes, LABELS).values() for key in keys}
        labels |= {key for key in shapes if _plain(key) in LABELS}
        single = [key for key, shape in shapes.items() if len(shape) >= 2 and min(shape[:2]) > 1 and key not in labels]
    is_enough = {"train", "test"} <= parts.keys() or _suffices(parts, options)
    if is_enough and not single:
        return _unambiguous(parts, shapes, path)
    if len(single) == 1 and not parts:
        return {ALONE: single[0]}
    raise DataError(
        f"{path} must have train and test (and optionally valid), or one array of observations such as x or data, got "
        f"{listed(shapes)}: choose one by --array NAME"
    )


def _is_unnamed(key: str, shape: tuple[int, ...]) -> bool:
    """Return whether an array may be observations that numpy.savez named arr_0, arr_1 and so on."""
    return re.fullmatch(r"arr_\d+", key) is not None and len(shape) >= 2


def _suffices(parts: Collection[str], options: FileOptions) -> bool:
    """Return whether some of the parts are enough, because others are in another file or are not needed."""
    return ("train" in parts and options.test is not None) or ("test" in parts and options.unsplit)


def _labels(
    shapes: Mapping[str, tuple[int, ...]], keys: Mapping[str, str], path: Path, options: FileOptions
) -> dict[str, str]:
    """Return the keys of the arrays of labels, by part."""
    asked = options.labels
    names = LABELS if asked is None else [_plain(asked)]
    if ALONE in keys:
        found = [key for key in shapes if (_plain(key) in names if asked is None else key == asked)]
        labels = {ALONE: found[0]} if len(found) == 1 else {}
    else:
        labels = {part: several[0] for part, several in _parts(shapes, names).items() if part in keys}
    if asked is not None and not labels and not options.optional:
        raise DataError(f"{path} does not have an array {asked!r} of labels, only {listed(shapes)}")
    return labels


def _division(archive: Archive, path: Path, options: FileOptions, count: int) -> NDArray[Any] | None:
    name = str(options.column)
    if name not in archive.shapes:
        if options.optional:
            return None
        raise DataError(
            f"{path} does not have an array {name!r} that divides the observations, only {listed(archive.shapes)}"
        )
    found = _vector(archive, name, count)
    if found is None:
        raise DataError(f"{path} has {name} {archive.shapes[name]}, expected {count} entries, one per observation")
    return found


def _vector(archive: Archive, key: str, count: int) -> NDArray[Any] | None:
    """Return an array that has one entry per observation; None if it does not."""
    shape = archive.shapes[key]
    if count not in shape or np.prod(shape) != count:
        return None
    stored: Stored = archive.read(key)
    return vector(np.asarray(stored[:]))


def _parts(shapes: Iterable[str], names: Iterable[str], bare: bool = False) -> dict[str, list[str]]:
    """Return the keys that are made of one of the names and a word for a part, by part.

    With ``bare`` a word alone is one of them.
    """
    found: dict[str, list[str]] = {}
    for part in PARTS:
        wanted = {word for word in WORDS[part] if bare}
        wanted |= {made for word in WORDS[part] for name in names for made in (word + name, name + word)}
        keys = [key for key in shapes if _plain(key) in wanted]
        if keys:
            found[part] = keys
    return found


def _unambiguous(parts: Mapping[str, list[str]], shapes: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, str]:
    for part, keys in parts.items():
        if len(keys) > 1:
            raise DataError(
                f"{path} has several arrays for {part}, {listed({key: shapes[key] for key in keys})}: choose by "
                f"--array NAME, their name without {part}"
            )
    return {part: keys[0] for part, keys in parts.items()}


def _plain(key: str) -> str:
    """Return a key in lower case and without separators."""
    return re.sub(r"[\W_]+", "", key).lower()
