"""Tests of the files that users have: each format gives the numbers, labels and names that were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import user_files as made
from numpy.typing import NDArray
from user_files import NEEDED, need

from iwae_fast import data
from iwae_fast.data import DataError, FileOptions
from iwae_fast.data.formats import SUFFIXES, hdf5, numpy_files, read_content
from iwae_fast.data.stored import SparseRows
from iwae_fast.experiments.cli import choices


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave every array in its file where its format allows it."""
    monkeypatch.setattr(numpy_files, "MAPPED_FROM", 1)


def whole(found: data.ImageData) -> NDArray[Any]:
    """Return training and test observations, sorted."""
    return np.array(sorted(torch.cat((found.train[:], found.test[:])).tolist()), np.float32)


@pytest.mark.parametrize("is_mapped", [False, True])
@pytest.mark.parametrize("kind", made.SINGLE)
def test_a_single_array_is_split(kind: str, is_mapped: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    need(*NEEDED.get(kind, []))
    if is_mapped:
        request.getfixturevalue("mapped")
    path = made.SINGLE[kind](tmp_path)
    found = data.load(str(path), as_stored=True)
    np.testing.assert_array_equal(whole(found), sorted(made.X.tolist()))
    assert (len(found.train), len(found.test), found.image_shape) == (22, 2, (1, made.WIDTH))
    again = data.load(str(path))
    assert (again.train_fingerprint, again.test_fingerprint) == (found.train_fingerprint, found.test_fingerprint)
    # The split is that of the same rows in a .npy file.
    np.save(tmp_path / "same.npy", made.X)
    assert torch.equal(data.load(str(tmp_path / "same.npy")).test, again.test)


def test_the_names_that_libraries_give_to_arrays(tmp_path: Path) -> None:
    for names in (
        ("x_train", "x_test", "y_train", "y_test"),
        ("train_images", "test_images", "train_labels", "test_labels"),
        ("X_train", "X_test", "Y_train", "Y_test"),
        ("train", "test", "train_target", "test_target"),
    ):
        arrays = (made.X[:20], made.X[20:], made.CLASSES[:20], made.WORDS[20:])
        np.savez(tmp_path / "a.npz", **dict(zip(names, arrays, strict=True)))
        found = data.load(str(tmp_path / "a.npz"))
        np.testing.assert_array_equal(found.train.numpy(), made.X[:20])
        np.testing.assert_array_equal(found.test.numpy(), made.X[20:])
        np.testing.assert_array_equal(found.labels["train"], made.CLASSES[:20])
        np.testing.assert_array_equal(found.labels["test"], made.WORDS[20:])
    np.savez(tmp_path / "a.npz", train=made.X, x_train=made.X, test=made.X)
    with pytest.raises(DataError, match=r"has several arrays for train, train \(24, 5\), x_train \(24, 5\)"):
        data.load(str(tmp_path / "a.npz"))


def test_arrays_are_chosen_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    objects = np.array([{}] * made.COUNT, object)
    np.savez(path, x=made.X, spectra=made.X * 2, mine=made.CLASSES[:, None], labels=objects, short=made.CLASSES[:3])
    found = data.load(str(path), array="spectra", labels="mine")
    np.testing.assert_array_equal(whole(found), sorted((made.X * 2).tolist()))
    for part in ("train", "test"):
        for row, label in zip(getattr(found, part), found.labels[part], strict=True):
            (index,) = np.flatnonzero((row.numpy() == made.X * 2).all(1))
            assert label == made.CLASSES[index]
    # Objects are not read, and labels that were not asked for are then left out.
    assert data.load(str(path)).labels == {}
    names = r"x \(24, 5\), spectra \(24, 5\), mine \(24, 1\), labels \(24,\), short \(3,\)"
    for options, message in (
        ({"array": "none"}, f"does not have an array 'none', only {names}"),
        ({"labels": "none"}, f"does not have an array 'none' of labels, only {names}"),
        ({"labels": "short"}, r"has short \(3,\), expected 24 labels, one per observation"),
        ({"labels": "labels"}, "objects, which are never loaded"),
        ({"split": "none"}, f"does not have an array 'none' that divides the observations, only {names}"),
    ):
        with pytest.raises(DataError, match=message):
            data.load(str(path), **options)
    np.savez(path, spectra_train=made.X[:20], spectra_test=made.X[20:], x=made.X)
    assert len(data.load(str(path), array="spectra").test) == 4


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables(kind: str, tmp_path: Path) -> None:
    need(*NEEDED[kind])
    path = getattr(made, kind)(tmp_path / f"t.{kind}", species=made.WORDS, fold=made.FOLD)
    found = data.load(str(path), labels="species", split="fold")
    np.testing.assert_array_equal(found.test.numpy(), made.X[made.FOLD == "test"])
    np.testing.assert_array_equal(found.labels["test"], made.WORDS[made.FOLD == "test"])
    assert found.columns == made.NAMES
    assert found.source == f"t.{kind}, divided by fold: 18 for train, 6 for test."
    few = data.load(str(path), array="f3, f0", split="fold")
    np.testing.assert_array_equal(few.test.numpy(), made.X[made.FOLD == "test"][:, [3, 0]])
    assert few.labels == {}
    with pytest.raises(DataError, match="has 'train' in column 'fold', expected numbers: .* --labels fold"):
        data.load(str(path), labels="species")
    with pytest.raises(DataError, match="does not have a column 'g', only f0, f1, f2, f3, f4, species and 1 more"):
        data.load(str(path), labels="g")
    # A column of text whose name is usual for labels is taken as them.
    usual = getattr(made, kind)(tmp_path / f"u.{kind}", Label=made.WORDS)
    assert set(data.load(str(usual)).labels["train"]) == set(made.WORDS)


def test_spreadsheets_write_tables_in_many_ways(tmp_path: Path) -> None:
    need("pandas")
    expected = np.array([[1.5, 2.0], [3.0, -4.0], [0.25, 6.0]], np.float32)
    for text in (
        "a,b\n1.5,2\n3,-4\n0.25,6\n",
        "\ufeffa;b\r\n1.5;2\r\n3;-4\r\n0.25;6\r\n",
        "a\tb\n1.5\t2\n\n3\t-4\n0.25\t6",
        "1.5,2\n3,-4\n.25,6e0\n",
        ",a,b\n0,1.5,2\n1,3,-4\n2,.25,6\n",
        '"a", "b"\n"1.5", "2"\n3, -4\n0.25,6\n',
    ):
        path = tmp_path / "t.csv"
        path.write_text(text, encoding="utf-8", newline="")
        np.testing.assert_array_equal(data.load(str(path), unsplit=True).test.numpy(), expected)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "dia"])
def test_sparse_matrices_stay_sparse(kind: str, tmp_path: Path) -> None:
    need("scipy")
    path = made.sparse_npz(tmp_path / "s.npz", kind)
    found = data.load(str(path), as_stored=True)
    assert isinstance(found.train.stored, SparseRows)
    np.testing.assert_array_equal(whole(found), sorted(made.COUNTS.tolist()))
    dense = data.Rows(made.COUNTS, found.train.order)
    for index in (3, -1, slice(2, 9), slice(None, None, -2), [5, 5, 0], torch.tensor([7, 1]), torch.arange(22) > 4):
        assert torch.equal(found.train[index], dense[index])
    assert torch.equal(found.train.mean(0), dense.mean(0))


@pytest.mark.parametrize("sparse", [None, "csr", "csc"])
def test_anndata(sparse: str | None, tmp_path: Path) -> None:
    need("h5py", "scipy")
    path = str(made.anndata(tmp_path / "cells.h5ad", sparse=sparse))
    found = data.load(path, labels="cell_type", split="fold", whole_numbers=True)
    is_test = made.FOLD == "test"
    np.testing.assert_array_equal(found.test.numpy(), made.COUNTS[is_test])
    expected = np.array(["B", "NK", "T"])[made.CLASSES]
    np.testing.assert_array_equal(found.labels["test"], expected[is_test])
    assert "" in found.labels["train"].tolist()  # the category of one cell is missing
    assert found.columns == tuple(f"gene{number}" for number in range(made.WIDTH))
    scaled = data.load(path, array="layers/scaled", split="fold")
    np.testing.assert_array_equal(scaled.test.numpy(), 2 * made.COUNTS[is_test])
    with pytest.raises(DataError, match=r"does not have a matrix 'raw/X', only X \(24, 5\), layers/scaled \(24, 5\)"):
        data.load(path, array="raw/X")
    with pytest.raises(DataError, match="does not have a column 'batch' in obs, only _index, cell_type, fold"):
        data.load(path, labels="batch")


@pytest.mark.parametrize("chunks", [None, (4, 3)])
def test_hdf5_by_path_and_by_rows(chunks: Any, tmp_path: Path, mapped: None) -> None:
    need("h5py")
    arrays = {"train__x": made.X[:20], "test__x": made.X[20:], "train__labels": made.WORDS[:20], "other": made.X[:, 0]}
    path = made.hdf5(tmp_path / "a.hdf5", chunks=chunks, **arrays)
    found = data.load(str(path), as_stored=True)
    np.testing.assert_array_equal(found.train[:].numpy(), made.X[:20])
    np.testing.assert_array_equal(found.labels["train"], made.WORDS[:20])
    stored = found.train.stored
    assert isinstance(stored, np.ndarray if chunks is None else hdf5.Hdf5Rows)
    for index in (0, -2, slice(3, 9), slice(None, None, -3), [4, 4, 1], np.array([], np.int64), np.arange(20) < 7):
        np.testing.assert_array_equal(stored[index], made.X[:20][index])
    with pytest.raises(DataError, match=r"'y/x', only other \(24,\), test/x \(4, 5\), train/labels \(20,\), train/x"):
        data.load(str(path), array="y/x")
    loader = torch.utils.data.DataLoader(found.train, batch_size=7, num_workers=1)
    np.testing.assert_array_equal(torch.cat(list(loader)).numpy(), made.X[:20])


def test_matlab_of_each_version(tmp_path: Path, mapped: None) -> None:
    need("scipy", "h5py")
    import h5py
    from scipy import sparse

    old = made.matlab(tmp_path / "old.mat", X=made.X, y=made.CLASSES[:, None], cells=np.array([{}], object))
    new = tmp_path / "new.mat"
    with h5py.File(new, "w", userblock_size=512) as file:  # axes are in reverse order in version 7.3
        file["X"], file["y"] = made.X.T, made.CLASSES[None]
    for path in (old, new):
        found = data.load(str(path))
        np.testing.assert_array_equal(whole(found), sorted(made.X.tolist()))
        assert len(found.labels["train"]) == 22
    path = made.matlab(tmp_path / "sparse.mat", counts=sparse.csc_matrix(made.COUNTS))
    found = data.load(str(path), as_stored=True)
    assert isinstance(found.train.stored, SparseRows)
    np.testing.assert_array_equal(whole(found), sorted(made.COUNTS.tolist()))


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 3)])
def test_image_folders(shape: tuple[int, ...], tmp_path: Path) -> None:
    need("PIL")
    from PIL import Image

    folder = made.images(tmp_path / "pictures", shape)
    (folder / "notes.txt").write_text("not an image")
    found = data.load(str(folder))
    assert (found.image_shape, found.grey_levels, len(found.train)) == (shape, True, 15)
    every = {
        tuple((np.asarray(Image.open(file)).reshape(-1) / np.float32(255)).tolist()): file.parent.name
        for file in folder.rglob("*.png")
    }
    for part in ("train", "test"):
        rows = [tuple(row) for row in getattr(found, part).tolist()]
        assert [every[row] for row in rows] == found.labels[part].tolist()
    divided = tmp_path / "divided"
    made.images(divided / "train", shape, each=5)
    made.images(divided / "Test", shape, each=2)
    found = data.load(str(divided))
    assert (len(found.train), len(found.test), found.labels["test"].tolist()) == (10, 4, ["cat"] * 2 + ["dog"] * 2)
    with pytest.raises(DataError, match="is a folder of images, for which labels 'y' has no effect"):
        data.load(str(divided), labels="y")


@pytest.mark.parametrize("shape", [(6, 1, 4, 3), (6, 4, 3, 1), (6, 3, 4, 5), (6, 4, 5, 3)])
def test_channels_are_last_and_one_channel_is_gray(shape: tuple[int, ...], tmp_path: Path, mapped: None) -> None:
    array = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    np.save(tmp_path / "x.npy", array)
    found = data.load(str(tmp_path / "x.npy"), unsplit=True, as_stored=True)
    last = array if shape[-1] in (1, 3) and shape[1] != 1 else np.moveaxis(array, 1, -1)
    assert found.image_shape == (last.shape[1:3] if last.shape[3] == 1 else last.shape[1:])
    np.testing.assert_array_equal(found.test[:].numpy(), last.reshape(6, -1) / np.float32(255))


def test_the_command_line_has_the_suffixes() -> None:
    assert choices.FILES == SUFFIXES == data.FILES


def test_content_names_what_was_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=made.X, y=made.CLASSES)
    content = read_content(tmp_path / "a.npz", FileOptions())
    assert (list(content.parts), list(content.labels), content.name) == ([""], [""], "x")
