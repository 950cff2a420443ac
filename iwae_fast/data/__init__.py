"""Data sets as tensors of flattened images: ``load(name)``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from .. import checks
from .binarized_mnist import load_binarized_mnist
from .digits import load_digits
from .fashion_mnist import load_fashion_mnist
from .formats import SUFFIXES
from .images import DataError, ImageData, binarize
from .mnist import load_mnist
from .omniglot import load_omniglot
from .options import FileOptions
from .own import load_own
from .rows import Observations, Rows

__all__ = [
    "DATASETS",
    "FILES",
    "DataError",
    "FileOptions",
    "ImageData",
    "Rows",
    "binarize",
    "is_file",
    "load",
    "load_file",
]

FILES = SUFFIXES
"""Suffixes of the files that :func:`load` reads."""

DATASETS: dict[str, Callable[[], ImageData]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "binarized-mnist": load_binarized_mnist,
    "omniglot": load_omniglot,
    "fashion-mnist": load_fashion_mnist,
}


def load(
    name: str,
    *,
    whole_numbers: bool = False,
    as_stored: bool = False,
    unsplit: bool = False,
    test: str | None = None,
    split: float | str | None = None,
    labels: str | None = None,
    array: str | None = None,
    missing: str | None = None,
    divide_by: float | None = None,
) -> ImageData:
    """Load a data set by its name, one of DATASETS, or by the path of a file or of a folder of images.

    The formats of files are those of :data:`iwae_fast.data.formats.FORMATS`: NumPy's, CSV, Parquet, MATLAB's, HDF5,
    anndata's and SciPy's sparse matrices. docs/data.md says which of their parts are read.

    Args:
        name: name of the data set, or path.
        whole_numbers: treat the bytes of a file as counts or classes, not as gray levels.
        as_stored: keep the numbers of a file in their dtype, and in the file where it is large and its format allows
            it. ``train`` and the other parts are then :class:`Rows`, whose batches are float32, instead of float32
            tensors.
        unsplit: use all of a file's single array as the test set.
        test: path of another file, whose observations are the test set.
        split: fraction of the observations that is the test set, instead of a tenth; or the name of a column or array
            that says train, test or valid for each observation, or 0 for training and 1 for the test.
        labels: name of the column or array of labels, which are not part of an observation.
        array: name of the array of observations; in a table the names of columns, separated by commas.
        missing: the value that stands for a missing one: "nan" or another number, or a text in a table. Missing
            values are NaN in the result.
        divide_by: divisor of all numbers, such as 255 for gray levels that are not stored as bytes.

    Raises:
        ValueError: the name is unknown, or an option of files was given with the name of a data set.
        DataError: files are missing, damaged or not the expected ones.
        ModuleNotFoundError: a package of the ``cli`` extra is not installed (for digits, and every download), or one
            of the ``files`` extra (for files that are not NumPy's).
    """
    if is_file(name):
        options = FileOptions(test, split, labels, array, missing, divide_by, whole_numbers, unsplit)
        return load_file(name, options, as_stored=as_stored)
    checks.one_of("data set", name, DATASETS, f", or the path of a file ({', '.join(FILES)}) or of a folder of images")
    given = {"test": test, "split": split, "labels": labels, "array": array, "missing": missing, "divide_by": divide_by}
    for option, value in given.items():
        if value is not None:
            raise ValueError(f"{option} is an option of files, and has no effect on data set {name!r}")
    return DATASETS[name]()


def load_file(name: str, options: FileOptions, *, as_stored: bool = True) -> ImageData:
    """Load a data set from a file or a folder of images, as :func:`load` does with the same options."""
    found = load_own(name, options)
    return found if as_stored else _in_memory(found)


def is_file(name: str) -> bool:
    """Return whether a name is the path of a file or a folder, which need not exist, and not the name of a data set."""
    if name in DATASETS:
        return False
    is_path = any(separator in name for separator in (os.sep, os.altsep) if separator)
    return name.lower().endswith(FILES) or is_path or Path(name).expanduser().is_dir()


def _in_memory(found: ImageData) -> ImageData:
    valid = None if found.valid is None else _tensor(found.valid)
    return replace(found, train=_tensor(found.train), test=_tensor(found.test), valid=valid)


def _tensor(observations: Observations) -> Tensor:
    return observations.tensor() if isinstance(observations, Rows) else observations
