"""Tests of user-supplied data: how NumPy files are interpreted, and the errors for unsuitable ones."""

import numpy as np
import pytest
import torch

from iwae_fast import data
from iwae_fast.data import DataError

RANDOM = np.random.default_rng(0)
BYTES = RANDOM.integers(0, 256, (30, 4, 6), np.uint8)
BITS = RANDOM.random((30, 16)) < 0.5
NORMAL = RANDOM.standard_normal((30, 16))


@pytest.fixture
def save(tmp_path):
    """Save one array as .npy, or named arrays as .npz, and return the path."""

    def save(array=None, **arrays):
        path = tmp_path / ("own.npz" if array is None else "own.npy")
        if array is None:
            np.savez_compressed(path, **arrays)
        else:
            np.save(path, array)
        return str(path)

    return save


@pytest.mark.parametrize(
    ("array", "expected", "grey_levels", "image_shape"),
    [
        (BYTES, BYTES / np.float32(255), True, (4, 6)),
        (BYTES.reshape(30, 24), BYTES / np.float32(255), True, (1, 24)),
        (BITS, BITS, False, (4, 4)),
        (BITS.astype(np.uint8), BITS, False, (4, 4)),
        (BITS.astype(np.uint8) * 255, BITS, False, (4, 4)),
        (BITS.astype(np.int64), BITS, False, (4, 4)),
        (BITS.astype(np.float64), BITS, False, (4, 4)),
        (BITS * 0.5, BITS * 0.5, True, (4, 4)),
        ((BITS * 0.5).astype(np.float16), BITS * 0.5, True, (4, 4)),
        (NORMAL, NORMAL, False, (1, 16)),
        (np.asfortranarray(NORMAL), NORMAL, False, (1, 16)),
        (NORMAL.reshape(30, 8, 2), NORMAL, False, (8, 2)),
        (BYTES.reshape(30, 24).astype(np.int32), BYTES, False, (1, 24)),
    ],
)
@pytest.mark.parametrize("name", ["", "x", "data"])
def test_one_array(save, array, expected, grey_levels, image_shape, name):
    path = save(**{name: array}) if name else save(array)
    own = data.load(path)
    assert own.name == path
    assert (own.grey_levels, own.image_shape, own.valid) == (grey_levels, image_shape, None)
    assert own.train.dtype == own.test.dtype == torch.float32
    assert own.train.is_contiguous()
    assert (len(own.train), len(own.test)) == (27, 3)
    found = torch.cat((own.train, own.test)).tolist()
    assert sorted(found) == sorted(expected.reshape(30, -1).astype(np.float32).tolist())
    assert torch.equal(data.load(path).test, own.test)
    assert "a seeded split of 27 for training and 3 for the test" in own.source


def test_two_observations_are_one_for_each(save):
    own = data.load(save(NORMAL[:2]))
    assert (len(own.train), len(own.test)) == (1, 1)


def test_its_own_split(save):
    own = data.load(save(train=BYTES[:5], test=BYTES[5:8], valid=BYTES[8:], labels=np.arange(5)))
    np.testing.assert_array_equal(own.train.numpy(), BYTES[:5].reshape(5, -1) / np.float32(255))
    assert (len(own.test), len(own.valid), own.image_shape) == (3, 22, (4, 6))
    assert own.source == "own.npz with its own split."
    assert data.load(save(train=BITS[:5], test=BITS[5:])).valid is None


def test_all_parts_decide_what_the_values_are(save):
    dark = np.zeros((3, 4), np.uint8)
    own = data.load(save(train=dark, test=dark + 51))
    assert own.grey_levels
    assert own.test.unique().tolist() == pytest.approx([0.2])
    assert data.load(save(train=BITS[:9] * 1.0, test=BITS[9:] * 2.0)).image_shape == (1, 16)


def with_value(value):
    array = NORMAL.copy()
    array[20, 3] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"array": np.array([{}, []], object)}, "damaged or does not hold plain arrays"),
        ({"x": np.array([{}, []], object)}, "damaged or does not hold plain arrays"),
        ({"array": with_value(np.nan)}, "NaN in an array, in row 20 .from 0.: --missing nan"),
        ({"array": with_value(-np.inf)}, "infinity or numbers beyond float32 in an array"),
        ({"array": with_value(1e300)}, "beyond float32"),
        ({"array": NORMAL.astype(np.complex64)}, "an array of complex64, expected bool, integers or floats"),
        ({"array": np.array([["a"], ["b"]])}, "an array of <U1, expected"),
        ({"array": NORMAL[:, 0]}, r"an array of shape \(30,\), expected \(N, D\), \(N, height, width\), or images"),
        ({"array": np.zeros((9, 8, 8, 5))}, r"shape \(9, 8, 8, 5\), expected .* images with one or three channels"),
        ({"array": np.zeros((9, 0))}, r"shape \(9, 0\), which is empty"),
        ({"array": np.zeros((0, 9))}, r"shape \(0, 9\), which is empty"),
        ({"array": np.float32(1)}, r"shape \(\), expected \(N, D\)"),
        ({"train": NORMAL, "test": NORMAL[:0]}, r"test of shape \(0, 16\), which is empty"),
        (
            {"train": NORMAL, "test": NORMAL[:, :9]},
            r"test of float64 \(30, 9\), expected float64 \(N, 16\) as for train",
        ),
        ({"train": NORMAL, "test": NORMAL.reshape(30, 4, 4)}, r"test of float64 \(30, 4, 4\)"),
        ({"train": BITS, "test": BITS * 1.0}, r"test of float64 \(30, 16\), expected bool"),
        ({"x": NORMAL[:1]}, "has a single observation"),
        ({"train": NORMAL}, "must have train and test .*, got train"),
        ({"train": NORMAL, "test": NORMAL, "x": NORMAL}, r"got train \(30, 16\), test \(30, 16\), x \(30, 16\)"),
        ({"x": NORMAL, "data": NORMAL}, r"got x \(30, 16\), data \(30, 16\): choose one by --array NAME"),
        ({"means": NORMAL, "other": NORMAL}, r"got means \(30, 16\), other \(30, 16\)"),
        ({"y": NORMAL[:, 0]}, r"got y \(30,\)"),
    ],
)
def test_what_will_not_do(save, arrays, message):
    path = save(**arrays)
    with pytest.raises(DataError, match=message) as caught:
        data.load(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="nowhere.npy does not exist"):
        data.load(str(tmp_path / "nowhere.npy"))


@pytest.mark.parametrize("keep", [0, 7, 100, -30])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_damaged_file(save, keep, suffix):
    path = save(BYTES) if suffix == "npy" else save(x=BYTES)
    with open(path, "r+b") as file:
        content = file.read()[:keep]
        file.truncate(0)
        file.seek(0)
        file.write(content)
    with pytest.raises(DataError, match="damaged or does not hold plain arrays"):
        data.load(path)
