"""Tests of binarized MNIST, OMNIGLOT and Fashion-MNIST: small files of their formats, and the real ones if present."""

import gzip
import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from iwae_fast import data
from iwae_fast.data import DataError, binarized_mnist, fashion_mnist, files, omniglot

RANDOM = np.random.default_rng(0)


def sha256(array):
    return hashlib.sha256(array.tobytes()).hexdigest()


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv(files.ENVIRONMENT, str(tmp_path))
    return tmp_path


def refuses(name, message, path):
    with pytest.raises(DataError, match=message) as caught:
        data.load(name)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# --- Binarised MNIST ----------------------------------------------------------------------------------------------

BITS = {
    part: RANDOM.integers(0, 2, (count, 784), np.uint8) for part, count in [("train", 7), ("valid", 3), ("test", 2)]
}
PACKED = {part: np.packbits(bits, axis=1) for part, bits in BITS.items()}


@pytest.fixture
def bits_folder(root, monkeypatch):
    """Return a folder of small text files."""
    monkeypatch.setattr(binarized_mnist, "IMAGES", {part: len(bits) for part, bits in BITS.items()})
    monkeypatch.setattr(binarized_mnist, "SHA256", {part: sha256(packed) for part, packed in PACKED.items()})
    folder = root / "binarized_mnist"
    folder.mkdir()
    for part, bits in BITS.items():
        (folder / f"binarized_mnist_{part}.amat").write_text(
            "".join(" ".join(map(str, row)) + "\n" for row in bits.tolist())
        )
    return folder


def test_binarized_mnist_from_text_and_from_packed_bits(bits_folder):
    from_text = data.load("binarized-mnist")
    for file in bits_folder.iterdir():
        file.unlink()
    np.savez_compressed(bits_folder / "binarized_mnist_packed.npz", **PACKED)
    from_bits = data.load("binarized-mnist")
    for found in (from_text, from_bits):
        assert (found.name, found.grey_levels, found.image_shape) == ("binarized-mnist", False, (28, 28))
        for part, bits in BITS.items():
            rows = getattr(found, part)
            assert rows.dtype == torch.float32
            np.testing.assert_array_equal(rows.numpy(), bits)
    assert "from the text files" in from_text.source
    assert "from packed bits" in from_bits.source


def test_binarized_mnist_text_with_other_whitespace(bits_folder):
    path = bits_folder / "binarized_mnist_test.amat"
    path.write_bytes(path.read_bytes().replace(b"\n", b" \r\n"))
    np.testing.assert_array_equal(data.load("binarized-mnist").test.numpy(), BITS["test"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c[:-2], "1567 pixels, expected 2 images of 784"),
        (lambda c: c[:0], "0 pixels, expected 2 images"),
        (lambda c: b"2" + c[1:], "values other than 0 and 1"),
        (lambda c: b"-" + c[1:], "values other than 0 and 1"),
        (lambda c: (b"1" if c[:1] == b"0" else b"0") + c[1:], "not the expected file: its sha256"),
    ],
)
def test_binarized_mnist_damaged_text(bits_folder, damage, message):
    path = bits_folder / "binarized_mnist_test.amat"
    path.write_bytes(damage(path.read_bytes()))
    refuses("binarized-mnist", message, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"valid": PACKED["train"]}, r"'valid' of uint8 \(7, 98\), expected uint8 \(3, 98\)"),
        ({"valid": PACKED["valid"].astype(float)}, r"'valid' of float64"),
        ({"valid": PACKED["valid"] ^ 1}, "not the expected file"),
        ({"valid": None}, "does not have an array 'valid'"),
    ],
)
def test_binarized_mnist_damaged_bits(bits_folder, change, message):
    path = bits_folder / "binarized_mnist_packed.npz"
    np.savez(path, **{part: array for part, array in (PACKED | change).items() if array is not None})
    refuses("binarized-mnist", message, path)


def test_binarized_mnist_missing(bits_folder):
    (bits_folder / "binarized_mnist_valid.amat").unlink()
    names = "neither binarized_mnist_packed.npz nor binarized_mnist_valid.amat"
    refuses("binarized-mnist", names, bits_folder)


# --- OMNIGLOT -----------------------------------------------------------------------------------------------------

TRAIN, TEST, CHARACTERS = 9, 4, 15
INK = RANDOM.integers(0, 256, (CHARACTERS, 28, 28), np.uint8)


@pytest.fixture
def omniglot_folder(root, monkeypatch):
    for name, value in {"TRAIN": TRAIN, "TEST": TEST, "CHARACTERS": CHARACTERS, "IMAGES_SHA256": sha256(INK)}.items():
        monkeypatch.setattr(omniglot, name, value)
    folder = root / "omniglot"
    folder.mkdir()
    np.savez_compressed(folder / "omniglot_28x28.npz", images=INK, drawer=np.arange(CHARACTERS))
    return folder


def test_omniglot_from_numpy_in_a_seeded_split(omniglot_folder):
    found = data.load("omniglot")
    assert (found.train.shape, found.test.shape, found.image_shape) == ((TRAIN, 784), (TEST, 784), (28, 28))
    assert found.grey_levels
    rows = {row.tobytes(): i for i, row in enumerate(INK.reshape(CHARACTERS, -1) / np.float32(255))}
    used = [rows[row.tobytes()] for row in torch.cat((found.train, found.test)).numpy()]
    assert len(set(used)) == TRAIN + TEST
    assert torch.equal(data.load("omniglot").train, found.train)
    assert "omniglot_28x28.npz in a seeded split" in found.source


def matlab(**change):
    """Return the contents of chardata.mat, whose columns are images in Fortran order."""
    levels = (INK / 255.0).swapaxes(1, 2).reshape(CHARACTERS, -1).T
    return {"data": levels[:, :TRAIN], "testdata": levels[:, TRAIN : TRAIN + TEST], "target": np.eye(3)} | change


def test_omniglot_from_matlab_reads_row_by_row(omniglot_folder):
    savemat(omniglot_folder / "chardata.mat", matlab(), do_compression=True)
    found = data.load("omniglot")
    expected = (INK / 255.0).reshape(CHARACTERS, -1).astype(np.float32)
    np.testing.assert_array_equal(found.train.numpy(), expected[:TRAIN])
    np.testing.assert_array_equal(found.test.numpy(), expected[TRAIN : TRAIN + TEST])
    assert found.train.is_contiguous()
    assert "no checksum of that file is known" in found.source


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": matlab()["data"].T}, r"'data' of float64 \(9, 784\), expected numbers \(784, 9\)"),
        ({"testdata": matlab()["testdata"] * 255}, r"'testdata' in \[0.0, 255.0\], expected gray levels"),
        ({"testdata": matlab()["testdata"] * np.nan}, "expected gray levels"),
        ({"testdata": matlab()["testdata"] - 0.5}, "expected gray levels"),
        ({"testdata": matlab()["testdata"] * 0}, "expected gray levels"),
        ({"data": matlab()["data"] * 1j}, "'data' of complex128"),
    ],
)
def test_omniglot_damaged_matlab_content(omniglot_folder, change, message):
    savemat(omniglot_folder / "chardata.mat", matlab(**change))
    refuses("omniglot", message, omniglot_folder / "chardata.mat")


def test_omniglot_matlab_without_its_keys(omniglot_folder):
    savemat(omniglot_folder / "chardata.mat", {"data": matlab()["data"]})
    refuses("omniglot", "does not have an array 'testdata'", omniglot_folder / "chardata.mat")


@pytest.mark.parametrize("content", [b"", b"<html>a page that says something else</html>" * 9, None])
def test_omniglot_damaged_matlab_file(omniglot_folder, content):
    path = omniglot_folder / "chardata.mat"
    savemat(path, matlab(), do_compression=True)
    path.write_bytes(path.read_bytes()[:900] if content is None else content)
    refuses("omniglot", "is damaged or not a MATLAB file", path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": INK[1:]}, "does not have an array 'images' of uint8"),
        ({"images": INK / 255.0}, "does not have an array 'images' of uint8"),
        ({"pictures": INK}, "does not have an array 'images' of uint8"),
        ({"images": INK[::-1]}, "not the expected file"),
    ],
)
def test_omniglot_damaged_numpy_file(omniglot_folder, arrays, message):
    path = omniglot_folder / "omniglot_28x28.npz"
    np.savez(path, **arrays)
    refuses("omniglot", message, path)


# --- Fashion-MNIST ------------------------------------------------------------------------------------------------


def idx(images):
    return struct.pack(">4I", 0x803, *images.shape) + images.tobytes()


@pytest.fixture
def fashion_folder(root, monkeypatch):
    folder = root / "fashion_mnist"
    folder.mkdir()
    parts = {fashion_mnist.TRAIN: INK[:9], fashion_mnist.TEST: INK[9:]}
    stored = {part: gzip.compress(idx(images)) for part, images in parts.items()}
    for part, content in stored.items():
        (folder / f"{part}.gz").write_bytes(content)
    md5 = {part: hashlib.md5(content, usedforsecurity=False).hexdigest() for part, content in stored.items()}
    monkeypatch.setattr(fashion_mnist, "MD5", md5)
    monkeypatch.setattr(fashion_mnist, "IMAGES", {part: len(images) for part, images in parts.items()})
    return folder


def test_fashion_mnist_compressed_and_plain(fashion_folder):
    compressed = fashion_folder / f"{fashion_mnist.TEST}.gz"
    (fashion_folder / fashion_mnist.TEST).write_bytes(gzip.decompress(compressed.read_bytes()))
    compressed.unlink()
    found = data.load("fashion-mnist")
    levels = (INK / np.float32(255)).reshape(CHARACTERS, -1)
    np.testing.assert_array_equal(found.train.numpy(), levels[:9])
    np.testing.assert_array_equal(found.test.numpy(), levels[9:])
    assert found.grey_levels


def test_fashion_mnist_is_held_to_the_published_md5(fashion_folder):
    path = fashion_folder / f"{fashion_mnist.TEST}.gz"
    path.write_bytes(gzip.compress(idx(INK[9:] ^ 1)))
    refuses("fashion-mnist", "not the expected file: its md5", path)


def test_fashion_mnist_plain_files_are_held_to_their_size(fashion_folder):
    path = fashion_folder / fashion_mnist.TEST
    path.write_bytes(idx(INK[8:]))
    refuses("fashion-mnist", "has 7 images, expected 6", path)
    path.write_bytes(idx(INK.reshape(-1, 14, 56)))
    refuses("fashion-mnist", r"images of \(14, 56\) pixels, expected \(28, 28\)", path)


# --- The real ones ------------------------------------------------------------------------------------------------

HERE = Path(os.environ.get(files.ENVIRONMENT) or os.devnull)


def at_hand(folder):
    return pytest.mark.skipif(not (HERE / folder).is_dir(), reason=f"IWAE_FAST_DATA has no {folder}")


@at_hand("binarized_mnist")
def test_real_binarized_mnist():
    found = data.load("binarized-mnist")
    assert (found.train.shape, found.valid.shape, found.test.shape) == ((50000, 784), (10000, 784), (10000, 784))
    assert found.train.mean().item() == pytest.approx(0.1306, abs=1e-4)
    assert ((found.train == 0) | (found.train == 1)).all()


@at_hand("omniglot")
def test_real_omniglot():
    found = data.load("omniglot")
    assert (found.train.shape, found.test.shape) == ((24345, 784), (8070, 784))
    assert found.train.max() == found.test.max() == 1.0
    assert 0.05 < found.train.mean().item() < 0.15


@at_hand("fashion_mnist")
def test_real_fashion_mnist():
    found = data.load("fashion-mnist")
    assert (found.train.shape, found.test.shape) == ((60000, 784), (10000, 784))
    assert found.train.mean().item() == pytest.approx(0.2860, abs=1e-4)
