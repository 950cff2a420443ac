"""Tests of checkpoints: complete restoration, no loss of earlier ones, and one-line errors for damaged files."""

import os
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from iwae_fast import files
from iwae_fast.experiments.config import TrainConfig
from iwae_fast.experiments.train.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from iwae_fast.experiments.train.runs import copy_matching, create_run, open_run, trained_model
from iwae_fast.files import write_json


def make(**changes):
    torch.manual_seed(0)
    config = TrainConfig.preset("digits", hidden=(3,), latent=2, seed=5)
    model = {"encoder.weight": torch.randn(3, 4), "decoder.bias": torch.randn(2)}
    optimizer = {
        name: {"step": torch.tensor(7.0), "exp_avg": torch.randn_like(t), "exp_avg_sq": torch.rand_like(t)}
        for name, t in model.items()
    }
    sums = torch.rand(3, dtype=torch.float64)
    return replace(Checkpoint(config, (8, 8), "digest", 7, 1.5, 0.1, 40, sums, model, optimizer), **changes)


def assert_same(found, expected):
    torch.testing.assert_close(found.model, expected.model, rtol=0, atol=0)
    torch.testing.assert_close(found.optimizer, expected.optimizer, rtol=0, atol=0)
    assert torch.equal(found.epoch_sums, expected.epoch_sums)
    assert found.epoch_sums.dtype == torch.float64
    for name in ("config", "image_shape", "step", "seconds", "epoch_started", "epoch_count"):
        assert getattr(found, name) == getattr(expected, name)


def test_round_trip(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, make())
    assert_same(load_checkpoint(path), make())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_failed_save_keeps_the_earlier_checkpoint(tmp_path, monkeypatch, failing):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, make())

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(files.os, failing, fail)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(path, make(step=99))
    monkeypatch.undo()
    assert load_checkpoint(path).step == 7
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_truncated(tmp_path, kept):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, make())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    assert_one_line(path, "damaged")


def test_foreign_files(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    assert_one_line(path, "the checkpoint .* does not exist")
    path.write_text("a text file that is nobody's checkpoint")
    assert_one_line(path, "damaged")
    safetensors.torch.save_file({"weight": torch.ones(2)}, path)
    assert_one_line(path, "must be iwae_fast.checkpoint.1, got None")
    safetensors.torch.save_file({"weight": torch.ones(2)}, path, {"format": "iwae_fast.checkpoint.1"})
    assert_one_line(path, "not a complete checkpoint")


def assert_one_line(path, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_checkpoint_of_another_run(tmp_path):
    config = make().config
    run = create_run(tmp_path / "run", config)
    save_checkpoint(run.checkpoint, make(config=replace(config, batch_size=3, seed=6)))
    with pytest.raises(CheckpointError, match=r"belongs to a different run than .*: batch_size, seed differ"):
        open_run(run.folder)


def test_what_may_change_comes_from_the_folder(tmp_path):
    config = make().config
    run = create_run(tmp_path / "run", config)
    save_checkpoint(run.checkpoint, make())
    write_json(run.config, replace(config, epochs=999).to_json())
    _, checkpoint = open_run(run.folder)
    assert checkpoint.config.epochs == 999


def test_a_checkpoint_that_does_not_fit_the_model():
    with pytest.raises(CheckpointError, match=r"does not fit the model: .*decoder\.bias"):
        trained_model(make())
    with pytest.raises(CheckpointError, match=r"does not fit the model: a$"):
        copy_matching({"a": torch.zeros(2), "b": torch.zeros(1)}, {"a": torch.zeros(3), "b": torch.zeros(1)})
