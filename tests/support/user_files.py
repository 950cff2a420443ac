"""Small files of every format that users have, with the same observations."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

COUNT, WIDTH = 24, 5
RANDOM = np.random.default_rng(7)
X = RANDOM.standard_normal((COUNT, WIDTH)).astype(np.float32)
"""Observations of real numbers."""
CLASSES = RANDOM.integers(0, 3, COUNT)
WORDS = np.array(["setosa", "versicolor", "virginica"])[CLASSES]
FOLD = np.where(np.arange(COUNT) % 4 == 1, "test", "train")
COUNTS = RANDOM.poisson(0.6, (COUNT, WIDTH)).astype(np.float32)
"""Observations of which many numbers are zero."""
NAMES = tuple(f"f{number}" for number in range(WIDTH))


NEEDED = {
    "csv": ["pandas"],
    "parquet": ["pandas", "pyarrow"],
    "mat": ["scipy"],
    "h5": ["h5py"],
    "h5ad": ["h5py", "scipy"],
}
"""Packages of the extra that reading and writing a format needs."""


def need(*packages: str) -> None:
    """Skip a test if a package of the extra is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: it is in the extra 'files'")


def frame(x: NDArray[Any] = X, **columns: Any) -> Any:
    """Return a pandas frame of observations with further columns."""
    import pandas

    return pandas.DataFrame(x, columns=list(NAMES)).assign(**columns)


def csv(path: Path, **columns: Any) -> Path:
    frame(**columns).to_csv(path, index=False)
    return path


def parquet(path: Path, **columns: Any) -> Path:
    frame(**columns).to_parquet(path, index=False)
    return path


def hdf5(path: Path, *, chunks: Any = None, **arrays: Any) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            is_text = np.asarray(array).dtype.kind == "U"
            file.create_dataset(
                name.replace("__", "/"),
                data=array.astype(object) if is_text else array,
                chunks=chunks if np.ndim(array) > 1 else None,
                compression="gzip" if chunks and np.ndim(array) > 1 else None,
                dtype=h5py.string_dtype() if is_text else None,
            )
    return path


def anndata(path: Path, x: Any = COUNTS, sparse: str | None = "csr") -> Path:
    """Write a file of the layout of anndata 0.8 and later, with a categorical column of obs and one of text."""
    import h5py
    from scipy import sparse as matrices

    with h5py.File(path, "w") as file:
        if sparse is None:
            file["X"] = x
        else:
            made = getattr(matrices, f"{sparse}_matrix")(x)
            group = file.create_group("X")
            group.attrs.update({"encoding-type": f"{sparse}_matrix", "shape": made.shape})
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(made, name)
        file["layers/scaled"] = 2 * x
        for name, index in (("obs", [f"cell{n}" for n in range(len(x))]), ("var", [f"gene{n}" for n in range(WIDTH)])):
            table = file.create_group(name)
            table.attrs["_index"] = "_index"
            table.create_dataset("_index", data=np.array(index, object), dtype=h5py.string_dtype())
        kinds = file["obs"].create_group("cell_type")
        kinds["codes"] = np.where(np.arange(len(x)) == 3, -1, CLASSES[: len(x)]).astype(np.int8)
        kinds.create_dataset("categories", data=np.array(["B", "NK", "T"], object), dtype=h5py.string_dtype())
        file["obs"].create_dataset("fold", data=FOLD[: len(x)].astype(object), dtype=h5py.string_dtype())
    return path


def matlab(path: Path, **arrays: Any) -> Path:
    from scipy import io

    io.savemat(path, arrays, do_compression=True)
    return path


def sparse_npz(path: Path, kind: str = "csr") -> Path:
    from scipy import sparse

    sparse.save_npz(path, getattr(sparse, f"{kind}_matrix")(COUNTS))
    return path


def images(
    folder: Path, shape: tuple[int, ...] = (4, 3), classes: tuple[str, ...] = ("cat", "dog"), each: int = 8
) -> Path:
    """Write PNG files into folders of classes, and return the folder."""
    from PIL import Image

    random = np.random.default_rng(11)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(folder / name / f"{number:02}.png")
    return folder


SINGLE: dict[str, Callable[[Path], Path]] = {
    "npy": lambda folder: _numpy(folder / "x.npy"),
    "npz": lambda folder: _numpy(folder / "x.npz"),
    "csv": lambda folder: csv(folder / "x.csv"),
    "parquet": lambda folder: parquet(folder / "x.parquet"),
    "mat": lambda folder: matlab(folder / "x.mat", X=X),
    "h5": lambda folder: hdf5(folder / "x.h5", x=X),
    "h5ad": lambda folder: anndata(folder / "x.h5ad", X, sparse=None),
}
"""Functions that write the observations X as the single array of a file in a folder, by format."""


def _numpy(path: Path) -> Path:
    if path.suffix == ".npy":
        np.save(path, X)
    else:
        np.savez(path, X)
    return path
