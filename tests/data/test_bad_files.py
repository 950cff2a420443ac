"""Tests of files that cannot be read: one line that names the file and the fault, and no file left open."""

from __future__ import annotations

import gc
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import user_files as made
from user_files import NEEDED, need

from iwae_fast import data
from iwae_fast.data import DataError
from iwae_fast.data.formats import base, numpy_files

WRITERS: dict[str, Callable[[Path], Path]] = {
    **made.SINGLE,
    "sparse npz": lambda folder: made.sparse_npz(folder / "s.npz"),
    "sparse h5ad": lambda folder: made.anndata(folder / "s.h5ad"),
    "chunked h5": lambda folder: made.hdf5(folder / "c.h5", chunks=(4, 3), x=made.X),
    "images": lambda folder: made.images(folder / "images", each=2),
}


@contextmanager
def refused(path: Path, message: str | None = None) -> Iterator[None]:
    """Check that a DataError in one line names the file, and that its descriptors are closed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        unraisable: list[Any] = []
        hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
        try:
            with pytest.raises(DataError, match=message) as caught:
                yield
            told = str(caught.value)
            del caught
            gc.collect()
        finally:
            sys.unraisablehook = hook
    assert "\n" not in told
    assert str(path) in told
    assert unraisable == []
    if (descriptors := Path("/proc/self/fd")).exists():
        opened = [link.readlink() for link in descriptors.iterdir() if link.is_symlink()]
        assert path not in opened


def written(kind: str, folder: Path) -> Path:
    need(*NEEDED.get(kind.split()[-1], ["scipy"] if kind == "sparse npz" else ["PIL"] if kind == "images" else []))
    return WRITERS[kind](folder)


@pytest.mark.parametrize("kind", WRITERS)
def test_truncated_empty_and_overwritten_files(kind: str, tmp_path: Path) -> None:
    path = written(kind, tmp_path)
    file = next(path.rglob("*.png")) if path.is_dir() else path
    content = file.read_bytes()
    for damaged in (b"", content[:9], content[: len(content) // 2], b"\0" * len(content)):
        if kind == "csv" and damaged in (content[:9], content[: len(content) // 2]):
            continue  # a CSV file has no end, and short rows are tested below
        file.write_bytes(damaged)
        with refused(file):
            data.load(str(path))


@pytest.mark.parametrize("kind", WRITERS)
def test_directories_and_missing_files(kind: str, tmp_path: Path) -> None:
    path = written(kind, tmp_path)
    with refused(path.with_name("nowhere" + path.suffix), "nowhere.*(does not exist|there is no such folder)"):
        data.load(str(path.with_name("nowhere" + path.suffix)))
    if not path.is_dir():
        path.unlink()
        path.mkdir()
        with refused(path, "does not have images"):
            data.load(str(path))


def test_other_suffixes_name_those_that_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.xlsx"
    path.write_bytes(b"PK")
    with refused(path, r"must be a folder of images or a file that ends in \.npz, \.npy, \.csv, "):
        data.load(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", r"line 3 has 1 fields, expected 2 as in the first"),
        ("a,b\n1,2\n3,4,5\n", r"line 3 has 3 fields, expected 2"),
        ("1,2,3\n4,5\n", r"line 2 has 2 fields, expected 3"),
        ("\n \n", "it is empty"),
        ("a,b\n", "does not have a row of observations"),
        ("a,b\n1,\n2,3\n", "has NaN in column 'b', in row 0 .from 0.: --missing nan"),
        ("a,b\n1,?\n2,3\n", r"has '\?' in column 'b', expected numbers: .*--missing '\?'"),
        ("a,a\n1,2\n2,3\n", "has two columns of the name|has 'a'|'a.1'"),
        ("name\nx\ny\n", "has 'x' in column 'name', expected numbers"),
        ("a,b\n1,inf\n2,3\n", "infinity or numbers beyond float32"),
        ("a,b\n1,1e60\n2,3\n", "infinity or numbers beyond float32"),
        ('a,b\n1,"2\n', "line 2|EOF|damaged"),
    ],
)
def test_tables(text: str, message: str, tmp_path: Path) -> None:
    need("pandas")
    path = tmp_path / "t.csv"
    path.write_text(text)
    if message.startswith("has two"):  # pandas numbers the second one
        assert data.load(str(path)).columns == ("a", "a.1")
        return
    with refused(path, message):
        data.load(str(path))


def test_tables_that_are_not_text(tmp_path: Path) -> None:
    need("pandas")
    path = tmp_path / "t.csv"
    path.write_bytes("a,b\n1,2\n\xe4,3\n".encode("latin-1"))
    with refused(path, "is damaged or not a CSV file: .*utf-8"):
        data.load(str(path))


def test_columns_that_divide_say_train_or_test(tmp_path: Path) -> None:
    need("pandas")
    path = made.csv(tmp_path / "t.csv", fold=np.where(np.arange(made.COUNT) == 5, "holdout", made.FOLD))
    with refused(path, "has holdout in fold, expected train, test or valid, or 0 for training and 1 for the test"):
        data.load(str(path), split="fold")
    made.csv(path, fold=["train"] * made.COUNT)
    with refused(path, "does not have observations for test in fold, only for train"):
        data.load(str(path), split="fold")


def test_sparse_matrices_whose_parts_do_not_fit(tmp_path: Path) -> None:
    need("scipy")
    path = made.sparse_npz(tmp_path / "s.npz")
    parts = dict(np.load(path))
    for name, wrong in (
        ("indices", parts["indices"] + 3),
        ("indices", parts["indices"][:-2]),
        ("indptr", parts["indptr"][::-1]),
        ("indptr", parts["indptr"][:-1]),
        ("shape", np.array([24])),
        ("shape", np.array([24, -5])),
        ("format", np.array("lil")),
        ("format", np.array(b"\xff")),
    ):
        np.savez(path, **{**parts, name: wrong})
        with refused(path):
            data.load(str(path))
    del parts["indices"]
    np.savez(path, **parts)
    with refused(path):
        data.load(str(path))


def test_sparse_groups_whose_parts_do_not_fit(tmp_path: Path) -> None:
    need("h5py", "scipy")
    import h5py

    path = made.anndata(tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        file["X/indices"][0] = 99
    with refused(path, "is damaged or does not hold a sparse matrix"):
        data.load(str(path))
    with h5py.File(path, "r+") as file:
        del file["X/indptr"]
    with refused(path):
        data.load(str(path))


def test_an_archive_that_says_more_than_it_has(tmp_path: Path) -> None:
    """Write a header of a terabyte before a few bytes: it is refused before memory is taken."""
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (1 << 37, 1)})
        file.write(bytes(64))
    with refused(path, r"x.npy has .* bytes, expected 1099511627\d* by its shape"):
        data.load(str(path))
    single = tmp_path / "x.npy"
    with single.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (1 << 37, 1)})
    with refused(single, "damaged"):
        data.load(str(single))


def test_files_larger_than_memory_when_they_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("h5py", "PIL", "scipy")
    monkeypatch.setattr(base, "physical_memory", lambda: 100)
    packed = tmp_path / "packed.npz"
    np.savez_compressed(packed, x=made.X)
    for path in (packed, made.images(tmp_path / "many"), made.matlab(tmp_path / "m.mat", x=made.X.repeat(9, 0))):
        with refused(path, "would take 0.0 GiB in memory, and there are 0.0 GiB: save its numbers as a .npy file"):
            data.load(str(path))


def test_hdf5_that_claims_more_than_it_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("h5py")
    import h5py

    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", shape=(1 << 40, 8), dtype="f8", chunks=(1024, 8))
    with refused(path, "has x of 65,536.0 GiB, but stores only 0 bytes of it"):
        data.load(str(path))
    external = tmp_path / "external.h5"
    with h5py.File(external, "w") as file:
        file.create_dataset("x", shape=(4, 2), dtype="f8", external=[(str(path), 0, 64)])
    with refused(external, "has x in other files, which are not read"):
        data.load(str(external))


def test_images_of_different_sizes_and_depths(tmp_path: Path) -> None:
    need("PIL")
    from PIL import Image

    folder = made.images(tmp_path / "images", (4, 3), each=2)
    Image.new("L", (5, 4)).save(folder / "dog" / "99.png")
    with refused(
        folder / "dog" / "99.png", "has 4 x 5 pixels .*, expected 4 x 3 as in 00.png: all images need one size"
    ):
        data.load(str(folder))
    (folder / "dog" / "99.png").unlink()
    Image.new("I;16", (3, 4)).save(folder / "dog" / "98.png")
    with refused(folder / "dog" / "98.png", "has numbers of more than 8 bits"):
        data.load(str(folder))
    (folder / "dog" / "98.png").unlink()
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 8)
        with refused(folder / "cat" / "00.png", "is damaged or not an image: .*decompression bomb"):
            data.load(str(folder))


@pytest.mark.parametrize(
    ("missing", "write"),
    [
        ("pandas", lambda folder: made.csv(folder / "x.csv")),
        ("pyarrow", lambda folder: made.parquet(folder / "x.parquet")),
        ("h5py", lambda folder: made.hdf5(folder / "x.h5", x=made.X)),
        ("PIL", lambda folder: made.images(folder / "images")),
        ("scipy", lambda folder: made.matlab(folder / "x.mat", x=made.X)),
        ("scipy", lambda folder: made.sparse_npz(folder / "x.npz")),
    ],
)
def test_without_the_extra_its_name_is_told(
    missing: str, write: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(missing)
    path = write(tmp_path)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError, match=rf"needs {missing}, .*pip install 'iwae_fast\[files\]'"):
        data.load(str(path))


def test_numpy_files_need_no_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("pandas", "h5py", "PIL", "scipy", "pyarrow"):
        monkeypatch.setitem(sys.modules, package, None)
    assert numpy_files.NumpyArchive(made.SINGLE["npz"](tmp_path)).shapes == {"arr_0": (made.COUNT, made.WIDTH)}
    assert len(data.load(str(tmp_path / "x.npz")).test) == 2
