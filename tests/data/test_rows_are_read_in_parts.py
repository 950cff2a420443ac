"""Test that an array larger than a limit is loaded and trained on without being read whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from user_files import hdf5 as write_hdf5
from user_files import need

from iwae_fast.data import rows
from iwae_fast.data.formats import hdf5, numpy_files
from iwae_fast.experiments.config import TrainConfig
from iwae_fast.experiments.train import training
from iwae_fast.experiments.train.runs import create_run

ROWS, WIDTH, MOST = 400, 6, 50


@pytest.mark.parametrize("kind", ["npy", "h5", "h5 in chunks"])
def test_no_read_takes_more_rows_than_the_limit(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_files, "MAPPED_FROM", 1)
    monkeypatch.setattr(rows, "BYTES_AT_ONCE", MOST * WIDTH * 4)
    monkeypatch.setattr(rows, "AVERAGED_WHOLE", 1)
    x = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)
    path = tmp_path / f"x.{kind.split()[0]}"
    if kind == "npy":
        np.save(path, x)
    else:
        need("h5py")
        write_hdf5(path, chunks=(16, WIDTH) if "chunks" in kind else None, x=x)
    read: list[int] = []
    indexed = rows.Rows._stored

    def counted(self: rows.Rows, index: Any) -> Any:
        found = indexed(self, index)
        read.append(len(found) if found.ndim > 1 else 1)
        return found

    monkeypatch.setattr(rows.Rows, "_stored", counted)
    config = TrainConfig.preset(
        str(path), likelihood="gaussian", epochs=1, batch_size=20, hidden=(4,), latent=2, k=2, validation=40
    )
    images = config.load_data()
    stored = images.train.stored
    assert isinstance(stored, hdf5.Hdf5Rows) if "chunks" in kind else isinstance(stored.base, np.memmap)
    assert training.train(config, create_run(tmp_path / "run", config), images)
    assert max(read) <= MOST
    assert sum(read) > 4 * ROWS  # values, the support, the mean and the batches
