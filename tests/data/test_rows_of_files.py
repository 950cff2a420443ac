"""Tests of observations that stay in their file's dtype: values, bitwise equal runs, and memory."""

import mmap
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from same_run import assert_same_run

import iwae_fast
from iwae_fast import data
from iwae_fast.data import DataError, Rows, rows
from iwae_fast.data.formats import numpy_files
from iwae_fast.data.rows import chunks, fingerprint, select
from iwae_fast.experiments.config import TrainConfig
from iwae_fast.experiments.train import training
from iwae_fast.experiments.train.runs import create_run
from iwae_fast.experiments.train.source import Source

RANDOM = np.random.default_rng(3)
BYTES = RANDOM.integers(0, 256, (60, 3, 4), np.uint8)
LEVELS = torch.from_numpy(BYTES.reshape(60, 12).astype(np.float32)).div_(255.0)
STORED = {
    "bytes": (BYTES, 255.0),
    "bits": (BYTES[:, 0] > 100, None),
    "doubles": (RANDOM.standard_normal((60, 5)), None),
    "floats": (RANDOM.standard_normal((60, 5)).astype(np.float32), 4.0),
    "columns": (np.asfortranarray(RANDOM.standard_normal((60, 2, 3))), None),
    "big-endian": (RANDOM.integers(-9, 9, (60, 5)).astype(">i2"), None),
    "half": (RANDOM.standard_normal((60, 5)).astype(np.float16), None),
}


@pytest.fixture
def mapped(monkeypatch):
    """Map every file, and read a few rows at a time."""
    monkeypatch.setattr(numpy_files, "MAPPED_FROM", 1)
    monkeypatch.setattr(numpy_files, "CHECKED_AT_ONCE", 100)
    monkeypatch.setattr(rows, "BYTES_AT_ONCE", 7 * 12 * 4)


@pytest.mark.parametrize("stored", STORED.values(), ids=STORED)
def test_rows_are_the_numbers_of_the_array(stored, monkeypatch):
    array, divisor = stored
    monkeypatch.setattr(rows, "BYTES_AT_ONCE", 7 * 12 * 4)
    expected = torch.from_numpy(array.reshape(60, -1).astype(np.float32)).div_(divisor or 1.0)
    before = array.copy()
    order = torch.randperm(60)[:40]
    for found, wanted in (
        (Rows(array, None, divisor), expected),
        (select(Rows(array, None, divisor), order), expected[order]),
        (select(select(Rows(array, None, divisor), order), order[:9] % 40), expected[order][order[:9] % 40]),
    ):
        assert (len(found), found.shape) == (len(wanted), wanted.shape)
        assert torch.equal(found.tensor(), wanted)
        assert torch.equal(torch.cat(list(chunks(found))), wanted)
        assert torch.equal(found.mean(0), wanted.mean(0))
        for index in (3, -1, slice(2, 8), [5, 1], torch.tensor([7, 7, 0]), torch.arange(len(wanted)) > 4):
            assert torch.equal(found[index], wanted[index])
        assert fingerprint(found) == fingerprint(wanted)
    np.testing.assert_array_equal(array, before)


def test_the_mean_of_many_is_summed_in_parts(monkeypatch):
    monkeypatch.setattr(rows, "AVERAGED_WHOLE", 0)
    torch.testing.assert_close(Rows(BYTES, None, 255.0).mean(0), LEVELS.double().mean(0).float(), rtol=1e-7, atol=0)
    with pytest.raises(ValueError, match="dim must be 0"):
        Rows(BYTES).mean(1)


def test_a_loader_takes_them():
    loader = torch.utils.data.DataLoader(Rows(BYTES, None, 255.0), batch_size=25)
    assert torch.equal(torch.cat(list(loader)), LEVELS)


def is_of_a_mapping(found: Rows) -> bool:
    owner = found.stored
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return isinstance(owner, mmap.mmap)


def test_large_arrays_are_mapped_and_small_ones_are_not(tmp_path, mapped, monkeypatch):
    path = tmp_path / "x.npy"
    np.save(path, BYTES)
    plain, archive, packed = path, tmp_path / "x.npz", tmp_path / "packed.npz"
    np.savez(archive, train=BYTES[:50], test=BYTES[50:])
    np.savez_compressed(packed, train=BYTES[:50], test=BYTES[50:])
    for file, is_mapped in ((plain, True), (archive, True), (packed, False)):
        own = data.load(str(file), as_stored=True)
        assert isinstance(own.train, Rows)
        assert own.train.stored.dtype == np.uint8
        assert is_of_a_mapping(own.train) == is_mapped
        whole = data.load(str(file))
        assert torch.equal(own.train[:], whole.train)
        assert torch.equal(own.test[:], whole.test)
        assert (own.train_fingerprint, own.grey_levels) == (whole.train_fingerprint, True)
    assert torch.equal(data.load(str(archive)).train, LEVELS[:50])
    monkeypatch.setattr(numpy_files, "MAPPED_FROM", BYTES.nbytes + 1)
    assert not is_of_a_mapping(data.load(str(plain), as_stored=True).train)


def test_all_of_an_array_is_the_test_part_if_asked(tmp_path):
    one, three = tmp_path / "one.npy", tmp_path / "three.npz"
    np.save(one, BYTES[:1])
    assert torch.equal(data.load(str(one), unsplit=True).test, LEVELS[:1])
    np.savez(three, test=BYTES[:3])
    assert torch.equal(data.load(str(three), unsplit=True).test, LEVELS[:3])
    with pytest.raises(DataError, match="must have train and test"):
        data.load(str(three))


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_damage_is_found_in_mapped_files_too(tmp_path, mapped, suffix):
    path = tmp_path / f"x.{suffix}"
    if suffix == "npy":
        np.save(path, BYTES)
        path.write_bytes(path.read_bytes()[:-1])
    else:
        np.savez(path, x=BYTES)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        data.load(str(path))
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("x.npy", b"nothing of use")
    with pytest.raises(DataError):
        data.load(str(tmp_path / "text.npz"))


def settings(path: Path, **changes) -> TrainConfig:
    small = {"epochs": 2, "hidden": (6,), "latent": 2, "k": 3, "batch_size": 8, **changes}
    return TrainConfig.preset(str(path), **small)


@pytest.mark.parametrize("validation", [0, 11])
def test_a_run_has_the_bits_of_one_on_tensors(tmp_path, mapped, validation):
    """Train on bytes of a mapped file, in the order of a split."""
    np.save(tmp_path / "x.npy", BYTES)
    config = settings(tmp_path / "x.npy", validation=validation)
    stored = config.load_data()
    tensors = replace(stored, train=stored.train.tensor(), test=stored.test.tensor())
    made = []
    for name, images in (("stored", stored), ("tensors", tensors)):
        made.append(create_run(tmp_path / name, config))
        training.train(config, made[-1], images)
    assert_same_run(*made)


@pytest.mark.parametrize(
    "stored", [STORED["bytes"], STORED["bits"], STORED["doubles"]], ids=["bytes", "bits", "doubles"]
)
def test_on_a_device_bytes_stay_bytes(stored):
    array, divisor = stored
    observations = Rows(array, np.arange(59, -1, -1), divisor)
    cpu = torch.device("cpu")
    wanted = observations.tensor()
    order = torch.randperm(60)[:20]
    size = wanted.numel() * (1 if array.dtype.itemsize == 1 else 4)
    fitting, too_many = Source(observations, cpu, free=2 * size), Source(observations, cpu, free=2 * size - 1)
    for source in (fitting, too_many, Source(observations, cpu), Source(wanted, cpu)):
        assert len(source) == 60
        assert torch.equal(source.take(order), wanted[order])
    assert fitting.obstacle is None
    assert "do not fit into the memory of the device" in too_many.obstacle


MEASURE = """
import re, sys
from pathlib import Path
import torch
from iwae_fast.experiments import pictures, training
from iwae_fast.experiments.config import TrainConfig
from iwae_fast.experiments.train.fixed_pixels import fixed_test_images, fixed_training_images
from iwae_fast.experiments.train.runs import create_run

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def few_steps(name, path):
    config = TrainConfig.preset(path, epochs=1, batch_size=100, hidden=(4,), latent=2, k=1, validation=100)
    images = config.load_data()
    left = iter([False, False, True])
    training.train(config, create_run(Path(name), config), images, stop=lambda: next(left))
    fixed_test_images(images, 50), fixed_training_images(images, 100, 50)

few_steps("small", sys.argv[1])
before = peak()
few_steps("large", sys.argv[2])
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of the memory is read from /proc")
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_training_takes_no_memory_beyond_the_pages_of_the_file(tmp_path, suffix):
    """Check memory without the pages of the mapped file, which the system takes back when memory is short."""
    large = RANDOM.integers(0, 256, (90_000, 784), np.uint8)
    small, path = tmp_path / "small.npy", tmp_path / f"large.{suffix}"
    np.save(small, large[:300])
    if suffix == "npy":
        np.save(path, large)
    else:
        np.savez(path, train=large[:80_000], test=large[80_000:])
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(small), str(path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(iwae_fast.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < large.nbytes + (128 << 20)  # float32 would be four times as much
