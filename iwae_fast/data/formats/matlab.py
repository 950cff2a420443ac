"""MATLAB's .mat files: of versions 4 to 7.2, and of version 7.3, which are HDF5 files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..extra import extra_needed_by
from ..images import DataError
from ..options import FileOptions
from ..stored import SparseRows, Stored
from .base import Content, check_fits, readable
from .choose import choose
from .hdf5 import is_hdf5, read_hdf5

NUMBERS = {"double", "single", "logical", "sparse", "char", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64))}
"""MATLAB's names of the types of arrays that are read; others, such as cells and structs, hold objects."""


class MatlabArchive:
    """The arrays of a .mat file of version 4 to 7.2; raises DataError if the file is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with extra_needed_by(f"the MATLAB file {path}", "files"):
            from scipy import io  # takes a part of a second to import

        self.io = io
        with readable(path, "is damaged or not a MATLAB file", Exception), path.open("rb") as file:
            listed = io.whosmat(file)
        self.kinds = {name: kind for name, _, kind in listed}
        self._shapes = {name: tuple(shape) for name, shape, kind in listed if kind in NUMBERS}

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def read(self, name: str) -> Stored:
        check_fits(int(np.prod(self._shapes[name], dtype=float)) if self.kinds[name] != "sparse" else 0, self.path)
        with readable(self.path, "is damaged or not a MATLAB file", Exception), self.path.open("rb") as file:
            found: Any = self.io.loadmat(file, variable_names=[name], chars_as_strings=True)[name]
        if self.kinds[name] == "sparse":
            return SparseRows(found.tocsr())
        return np.asarray(found)


def read_matlab(path: Path, options: FileOptions) -> Content:
    """Return the observations of a .mat file; raises DataError."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if is_hdf5(path):
        return read_hdf5(path, options, is_matlab=True)
    return choose(MatlabArchive(path), path, options)
