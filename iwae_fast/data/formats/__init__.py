"""Readers of the files that users have, by suffix: arrays, tables, sparse matrices and folders of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..images import DataError
from ..options import FileOptions
from .anndata import read_anndata
from .base import ALONE, PARTS, Content, readable
from .hdf5 import read_hdf5
from .image_folder import read_image_folder
from .matlab import read_matlab
from .numpy_files import read_numpy
from .tables import read_csv, read_parquet

__all__ = ["ALONE", "FORMATS", "PARTS", "SUFFIXES", "Content", "read_content"]

FORMATS: dict[str, Callable[[Path, FileOptions], Content]] = {
    ".npz": read_numpy,
    ".npy": read_numpy,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    ".mat": read_matlab,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".h5ad": read_anndata,
}
"""Readers by the suffix of a file, in lower case. Packages that they need are imported when a file is read."""

SUFFIXES = tuple(FORMATS)


def read_content(path: Path, options: FileOptions) -> Content:
    """Return the observations of a file, or of a folder of images, with their labels.

    Large arrays stay in the file where its format allows it, and sparse matrices stay sparse: ``Content.parts`` are
    arrays that are read when they are indexed.

    Args:
        path: the file, whose suffix determines its format, or a folder.
        options: the parts of the file to read.

    Raises:
        DataError: the file is missing, damaged or of an unknown format, or does not have what the options name.
        ModuleNotFoundError: a package of the extra ``files`` is not installed.
    """
    with readable(path, "cannot be read"):
        if path.is_dir():
            return read_image_folder(path, options)
    read = FORMATS.get(path.suffix.lower())
    if read is None:
        raise DataError(
            f"{path} must be a folder of images or a file that ends in {', '.join(SUFFIXES)}"
            + ("" if path.exists() else "; there is no such folder")
        )
    return read(path, options)
