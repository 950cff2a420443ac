"""HDF5 files: their data sets by path, mapped into memory or read by rows where they are large."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..extra import extra_needed_by
from ..images import DataError
from ..options import FileOptions
from ..stored import Stored
from . import numpy_files
from .base import Content, check_fits, physical_memory, readable
from .choose import choose
from .sparse import compressed

FAULT = "is damaged or not an HDF5 file"

MOST_COMPRESSION = 1100
"""The largest ratio by which deflate can compress. A data set larger than memory that claims more is not filled."""

SPARSE = {"csr_matrix": "csr", "csc_matrix": "csc", "csr": "csr", "csc": "csc"}
"""Formats of sparse matrices by their names in files of anndata, of any version."""


def h5py_module(path: Path) -> Any:
    """Return the module h5py; raises ModuleNotFoundError that names the extra."""
    with extra_needed_by(f"the HDF5 file {path}", "files"):
        import h5py
    return h5py


class Hdf5Archive:
    """The data sets of an HDF5 file by their paths, such as ``group/x``, and the sparse matrices of anndata.

    Args:
        path: the file.
        is_matlab: True if axes are stored in reverse, as MATLAB does.

    Raises DataError if the file is damaged.
    """

    def __init__(self, path: Path, is_matlab: bool = False) -> None:
        self.path, self.is_matlab = path, is_matlab
        self.h5py = h5py_module(path)
        found: dict[str, tuple[int, ...]] = {}

        def visit(name: str, item: Any) -> None:
            if name.startswith("#"):  # MATLAB's own, to which references point
                return
            if isinstance(item, self.h5py.Group):
                if sparse_format(item) is not None:
                    found[name] = tuple(int(size) for size in sparse_shape(item))
            elif (item.dtype.kind in "buif" or self._is_text(item)) and sparse_format(item.parent) is None:
                found[name] = tuple(item.shape[::-1] if is_matlab else item.shape or ())

        with readable(path, FAULT, RuntimeError, KeyError, TypeError), self.h5py.File(path, "r") as file:
            file.visititems(visit)
        self._shapes = found

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def read(self, name: str) -> Stored:
        with readable(self.path, FAULT, RuntimeError, KeyError, TypeError), self.h5py.File(self.path, "r") as file:
            item = file[name]
            if isinstance(item, self.h5py.Group):
                return self._sparse(item)
            if self._is_text(item):
                return np.asarray(item.asstr()[...]).astype(str)
            return self._numbers(item, name)

    def _numbers(self, item: Any, name: str) -> Stored:
        if item.external:
            raise DataError(f"{self.path} has {name} in other files, which are not read")
        size, stored = math.prod(item.shape) * item.dtype.itemsize, item.id.get_storage_size()
        if size > (physical_memory() or size) and size > MOST_COMPRESSION * stored:
            raise DataError(f"{self.path} has {name} of {size / 2**30:,.1f} GiB, but stores only {stored} bytes of it")
        if size < numpy_files.MAPPED_FROM:
            return self._oriented(item[...])
        offset = item.id.get_offset()
        if offset is not None:  # contiguous and without a filter
            return self._oriented(np.memmap(self.path, item.dtype, "r", offset, item.shape))
        if self.is_matlab:  # rows are the last axis of chunks
            check_fits(size, self.path)
            return self._oriented(item[...])
        return Hdf5Rows(self.path, name, item.shape, item.dtype)

    def _oriented(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.transpose() if self.is_matlab else array

    def _sparse(self, group: Any) -> Stored:
        parts = {name: group[name][...] for name in ("data", "indices", "indptr")}
        return compressed(str(sparse_format(group)), {**parts, "shape": sparse_shape(group)}, self.path)

    def _is_text(self, item: Any) -> bool:
        return self.h5py.check_string_dtype(item.dtype) is not None


class Hdf5Rows:
    """A data set in chunks, whose rows are read when they are indexed.

    The file is opened by each process that reads it, so that the workers of a DataLoader do not share its position.
    """

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.name = path, name
        self._shape, self._dtype = shape, dtype
        self._opened: tuple[int, Any, Any] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._dtype

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        with readable(self.path, FAULT, RuntimeError, KeyError):
            if isinstance(index, slice) and index.step in (None, 1):
                return np.asarray(self._dataset()[index])
            rows = np.arange(len(self))[index]
            if not np.ndim(rows):
                return np.asarray(self._dataset()[int(rows)])
            # HDF5 reads rows in ascending order, each once.
            ascending, places = np.unique(rows, return_inverse=True)
            if not len(ascending):
                return np.empty((0, *self._shape[1:]), self._dtype)
            return np.asarray(self._dataset()[ascending])[places.reshape(-1)]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _dataset(self) -> Any:
        if self._opened is None or self._opened[0] != os.getpid():
            file = h5py_module(self.path).File(self.path, "r")
            self._opened = os.getpid(), file, file[self.name]
        return self._opened[2]


def is_hdf5(path: Path) -> bool:
    """Return whether a file is in the format HDF5, by its first bytes; MATLAB has a header of 512 bytes before them."""
    with readable(path, "cannot be read"), path.open("rb") as file:
        start = file.read(520)
    return b"\x89HDF\r\n\x1a\n" in (start[:8], start[512:])


def read_hdf5(path: Path, options: FileOptions, is_matlab: bool = False) -> Content:
    """Return the observations of an HDF5 file, or of a .mat file of version 7.3; raises DataError."""
    return choose(Hdf5Archive(path, is_matlab), path, options)


def sparse_format(group: Any) -> str | None:
    """Return the format of a sparse matrix that is stored as a group; None for any other group."""
    told = group.attrs.get("encoding-type", group.attrs.get("h5sparse_format"))
    return SPARSE.get(told) if isinstance(told, str) else None


def sparse_shape(group: Any) -> NDArray[np.int64]:
    """Return the shape of a sparse matrix that is stored as a group."""
    return np.asarray(group.attrs["shape" if "shape" in group.attrs else "h5sparse_shape"]).astype(np.int64)
