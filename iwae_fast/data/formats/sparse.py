"""Sparse matrices as observations: the parts in which files store them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..extra import extra_needed_by
from ..stored import SparseRows
from .base import readable

SPARSE_NAMES = frozenset({"format", "shape", "data"})
"""Names of arrays that a file from scipy.sparse.save_npz has for every format of the matrix."""


def from_parts(parts: Mapping[str, NDArray[Any]], path: Path) -> SparseRows:
    """Return a matrix from the arrays of scipy.sparse.save_npz; raises DataError if they do not fit together."""
    kind = np.asarray(parts["format"]).item()
    name = kind.decode("ascii", "replace") if isinstance(kind, bytes) else str(kind)
    return compressed(name, parts, path)


def compressed(kind: str, parts: Mapping[str, NDArray[Any]], path: Path) -> SparseRows:
    """Return a matrix from its arrays.

    Args:
        kind: the format by SciPy's name: csr, csc, bsr, coo or dia.
        parts: ``data`` and ``shape`` of every format, and its indices by SciPy's names.
        path: the file, for errors.

    Raises DataError if the arrays do not fit together, so that an index would be outside of the matrix.
    """
    with extra_needed_by(f"the sparse matrix in {path}", "files"):
        from scipy import sparse  # takes a part of a second to import

    with readable(path, "is damaged or does not hold a sparse matrix", KeyError, TypeError, IndexError, AttributeError):
        shape = tuple(int(size) for size in np.asarray(parts["shape"]).reshape(-1))
        data = parts["data"]
        if len(shape) != 2:
            raise ValueError(f"a sparse matrix must have two axes, got the shape {shape}")
        if kind in ("csr", "csc", "bsr"):
            made = getattr(sparse, f"{kind}_matrix")((data, parts["indices"], parts["indptr"]), shape=shape)
            made.check_format(full_check=True)
        elif kind == "coo":
            made = sparse.coo_matrix((data, (parts["row"], parts["col"])), shape=shape)
        elif kind == "dia":
            made = sparse.dia_matrix((data, parts["offsets"]), shape=shape)
        else:
            raise ValueError(f"a sparse matrix must be csr, csc, bsr, coo or dia, got {kind!r}")
        return SparseRows(made.tocsr())
