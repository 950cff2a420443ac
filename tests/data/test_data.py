"""Tests of data sets: their content, and the errors for missing or damaged files."""

import gzip
import hashlib
import os
import struct
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from iwae_fast import data
from iwae_fast.data import files, mnist
from iwae_fast.data.images import DataError
from iwae_fast.seeds import Purpose, generator

TRAIN, TEST = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"


def test_digits_are_all_there():
    from sklearn.datasets import load_digits

    digits = data.load("digits")
    assert digits.train.shape == (1437, 64)
    assert digits.test.shape == (360, 64)
    assert digits.image_shape == (8, 8)
    assert digits.train.dtype == digits.test.dtype == torch.float32
    assert digits.train.min() == 0.0
    assert digits.train.max() == 1.0
    found = (torch.cat((digits.train, digits.test)) * 16).tolist()
    assert sorted(found) == sorted(load_digits().data.tolist())


def test_digits_split_is_fixed():
    first, second = data.load("digits"), data.load("digits")
    assert torch.equal(first.train, second.train)
    # The first test image, so that a new split would show.
    assert hashlib.sha256(first.test.numpy().tobytes()).hexdigest().startswith(DIGITS_TEST_SHA256)


DIGITS_TEST_SHA256 = "bd74675725b147c7"


def test_unknown_data_set():
    with pytest.raises(ValueError, match="unknown data set 'cifar': choose one of digits, mnist"):
        data.load("cifar")


def test_binarize_draws_bernoulli_of_grey_level():
    levels = torch.tensor([0.0, 0.25, 0.9, 1.0]).expand(20000, 4)
    drawn = data.binarize(levels, generator(0, Purpose.PIXELS))
    assert drawn.dtype == levels.dtype
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    # Five standard errors of the largest variance.
    torch.testing.assert_close(drawn.mean(0), levels[0], atol=5 * 0.5 / 20000**0.5, rtol=0)
    assert drawn[:, 0].sum() == 0
    assert drawn[:, 3].sum() == len(levels)
    assert torch.equal(drawn, data.binarize(levels, generator(0, Purpose.PIXELS)))
    assert not torch.equal(drawn, data.binarize(levels, generator(0, Purpose.PIXELS, 1)))


# --- MNIST, with small files of its format ------------------------------------------------------------------------


def idx(images, magic=0x803):
    return struct.pack(">4I", magic, *images.shape) + images.tobytes()


@pytest.fixture
def contents(monkeypatch):
    """Replace the real images by small ones with matching checksums."""
    random = np.random.default_rng(0)
    made = {
        TRAIN: random.integers(0, 256, (30, 28, 28), np.uint8),
        TEST: random.integers(0, 256, (10, 28, 28), np.uint8),
    }
    made[TRAIN][0, 0, :2] = (0, 255)
    contents = {name: idx(images) for name, images in made.items()}
    monkeypatch.setattr(mnist, "SHA256", {name: hashlib.sha256(c).hexdigest() for name, c in contents.items()})
    return contents


@pytest.fixture
def folder(contents, tmp_path, monkeypatch):
    """Return a data folder with one compressed and one plain file."""
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    (folder / f"{TRAIN}.gz").write_bytes(gzip.compress(contents[TRAIN]))
    (folder / TEST).write_bytes(contents[TEST])
    monkeypatch.setenv(files.ENVIRONMENT, str(folder.parent))
    return folder


def test_mnist_reads_compressed_and_plain_files(folder, contents):
    images = data.load("mnist")
    assert images.image_shape == (28, 28)
    expected = np.frombuffer(contents[TRAIN], np.uint8, offset=16).reshape(30, 784) / np.float32(255)
    np.testing.assert_array_equal(images.train.numpy(), expected)
    assert images.test.shape == (10, 784)
    assert images.train.dtype == torch.float32


def test_mnist_says_which_folder_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv(files.ENVIRONMENT, str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere/mnist does not exist"):
        data.load("mnist")


def test_mnist_says_which_file_is_missing(folder):
    (folder / TEST).unlink()
    with pytest.raises(DataError, match=f"mnist has neither {TEST} nor {TEST}.gz"):
        data.load("mnist")


def flip(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c[:100], "100 bytes, expected 7856 by its header"),
        (lambda c: c[:7], "truncated: 7 bytes"),
        (lambda c: c + b"\0", "7857 bytes, expected 7856 by its header"),
        (lambda c: b"\0\0\x08\x01" + c[4:], "magic number 0x00000801, expected 0x00000803"),
        (flip, "is not the expected file: its sha256"),
    ],
)
def test_mnist_damaged_plain_file(folder, damage, message):
    path = folder / TEST
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message) as caught:
        data.load("mnist")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [lambda c: c[:-50], lambda c: c[:200], lambda c: b"not gzip" + c, lambda c: c[:40] + b"\xff" * 40 + c[80:]],
)
def test_mnist_damaged_compressed_file(folder, damage):
    path = folder / f"{TRAIN}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="is damaged") as caught:
        data.load("mnist")
    assert str(path) in str(caught.value)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Serve the folder ``served`` locally, as the second of two mirrors; the first has only a wrong file."""
    served = tmp_path / "served"
    (served / "wrong").mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    base = f"http://127.0.0.1:{server.server_address[1]}/"
    (served / "wrong" / f"{TRAIN}.gz").write_bytes(gzip.compress(b"a page that says something else"))
    monkeypatch.setattr(mnist, "MIRRORS", (f"{base}wrong/", base))
    monkeypatch.setattr(files, "cache", lambda: tmp_path / "cache")
    monkeypatch.delenv(files.ENVIRONMENT, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield served
    server.shutdown()
    server.server_close()


def test_mnist_downloads_once_from_the_mirror_that_has_it(contents, mirror):
    for name, content in contents.items():
        (mirror / f"{name}.gz").write_bytes(gzip.compress(content))
    first = data.load("mnist")
    for name in contents:
        (mirror / f"{name}.gz").unlink()
    assert torch.equal(data.load("mnist").train, first.train)


def test_mnist_download_that_fails_says_what_to_do(contents, mirror, tmp_path):
    with pytest.raises(DataError, match=r"cannot download .* set \$IWAE_FAST_DATA") as caught:
        data.load("mnist")
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "cache" / "mnist").iterdir()] == [".lock"]


REAL = Path(os.environ.get(files.ENVIRONMENT, "")) / "mnist"


@pytest.mark.skipif(not (os.environ.get(files.ENVIRONMENT) and REAL.is_dir()), reason="IWAE_FAST_DATA has no mnist")
def test_real_mnist():
    images = data.load("mnist")
    assert images.train.shape == (60000, 784)
    assert images.test.shape == (10000, 784)
    assert images.train.mean().item() == pytest.approx(0.1307, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "missing"), [("digits", "sklearn"), ("mnist", "platformdirs"), ("omniglot", "platformdirs")]
)
def test_without_the_extra_its_name_is_told(name: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IWAE_FAST_DATA", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError, match=rf"needs {missing}, .*pip install 'iwae_fast\[cli\]'") as told:
        data.load(name)
    assert told.value.name == missing
