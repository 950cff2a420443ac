"""Files of anndata (.h5ad): a matrix of cells and genes, with columns of observations beside it.

They are read by h5py, as https://anndata.readthedocs.io describes them; the package anndata is not needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..images import DataError
from ..options import FileOptions
from .base import ALONE, Content, listed, readable
from .choose import LABELS
from .hdf5 import FAULT, Hdf5Archive

MATRIX = "X"


def read_anndata(path: Path, options: FileOptions) -> Content:
    """Return the matrix X, or another one such as ``layers/counts``, with labels and division from columns of obs.

    A sparse matrix stays sparse. Raises DataError if the file is damaged, or does not have the matrix or the columns.
    """
    archive = Hdf5Archive(path)
    name = MATRIX if options.array is None else options.array
    if options.optional and name not in archive.shapes:
        name = MATRIX
    if name not in archive.shapes:
        matrices = {key: shape for key, shape in archive.shapes.items() if len(shape) == 2}
        raise DataError(f"{path} does not have a matrix {name!r}, only {listed(matrices)}")
    with readable(path, FAULT, RuntimeError, KeyError, TypeError), archive.h5py.File(path, "r") as file:
        columns = {} if "obs" not in file else {str(key): file["obs"][key] for key in file["obs"]}
        genes = _index(file["raw/var" if name.startswith("raw/") else "var"]) if "var" in file else np.array([])
        found = {option: _column(columns, option, path, options) for option in ("labels", "column")}
    stored = archive.read(name)
    for option, values in found.items():
        if values is not None and len(values) != len(stored):
            raise DataError(
                f"{path} has {len(values)} entries in obs/{getattr(options, option)}, expected {len(stored)}, one for "
                "each observation"
            )
    return Content(
        {ALONE: stored},
        {} if found["labels"] is None else {ALONE: found["labels"]},
        tuple(str(gene) for gene in genes) if len(genes) == stored.shape[1] else (),
        found["column"],
        name,
    )


def _column(columns: dict[str, Any], option: str, path: Path, options: FileOptions) -> NDArray[Any] | None:
    """Return the column of obs that an option names, or for labels one of a usual name; None if there is none."""
    asked = getattr(options, option)
    if asked is None:
        usual = [name for name in columns if name.lower() in LABELS] if option == "labels" else []
        return _decoded(columns[usual[0]]) if len(usual) == 1 else None
    if asked not in columns:
        if options.optional:
            return None
        raise DataError(f"{path} does not have a column {asked!r} in obs, only {', '.join(columns) or 'none'}")
    return _decoded(columns[asked])


def _decoded(item: Any) -> NDArray[Any]:
    """Return a column of obs: a data set, or the codes and categories of a categorical one."""
    if "categories" in item and "codes" in item:
        return _chosen(_text(item["categories"]), np.asarray(item["codes"][...]))
    if "categories" in item.attrs:  # as versions of anndata before 0.8 refer to them
        return _chosen(_text(item.file[item.attrs["categories"]]), np.asarray(item[...]))
    return _text(item)


def _chosen(categories: NDArray[Any], codes: NDArray[Any]) -> NDArray[Any]:
    """Return the category of each code; an empty text for the code -1, which stands for a missing one."""
    return np.append(categories.astype(str), "")[np.where(codes < 0, len(categories), codes)]


def _index(group: Any) -> NDArray[Any]:
    """Return the names of the rows of obs or var."""
    name = group.attrs.get("_index", "_index")
    return _text(group[name]) if name in group else np.array([])


def _text(item: Any) -> NDArray[Any]:
    if item.dtype.kind == "O":
        return np.asarray(item.asstr()[...]).astype(str)
    found = np.asarray(item[...])
    return np.char.decode(found, "utf-8", "replace") if found.dtype.kind == "S" else found
