"""Tests of training by captured steps on a GPU, against training step by step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from iwae_fast import data

# All of these need what the command line needs.
training, checkpoint, metrics, runs, shared, turns = (
    pytest.importorskip(f"iwae_fast.experiments.train.{name}")
    for name in ("training", "checkpoint", "metrics", "runs", "shared", "turns")
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

SAME_BITS = {"rtol": 0.0, "atol": 0.0}


@pytest.fixture(scope="module")
def digits() -> data.ImageData:
    pytest.importorskip("sklearn")
    images = data.load("digits")
    return replace(images, train=images.train[:1010], test=images.test[:20])


def settings(**changes: Any) -> training.TrainConfig:
    small = {"hidden": (32,), "latent": 8, "k": 8, "batch_size": 20, "epochs": 4, "seed": 11, "device": "cuda"}
    return training.TrainConfig.preset("digits", **{**small, **changes})


def train(folder: Path, images: data.ImageData, config: training.TrainConfig) -> runs.Run:
    run = runs.create_run(folder, config)
    assert training.train(config, run, images)
    return run


def assert_same_run(first: runs.Run, second: runs.Run) -> None:
    """Assert that parameters and optimizer states are bitwise equal, and means equal up to summation order."""
    one, two = checkpoint.load_checkpoint(first.checkpoint), checkpoint.load_checkpoint(second.checkpoint)
    assert one.step == two.step
    torch.testing.assert_close(one.model, two.model, **SAME_BITS)
    torch.testing.assert_close(one.optimizer, two.optimizer, **SAME_BITS)
    for row, other in zip(metrics.read_metrics(first.metrics), metrics.read_metrics(second.metrics), strict=True):
        assert row.bound == pytest.approx(other.bound, rel=1e-6)
        assert row.ess == pytest.approx(other.ess, rel=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"protocol": "code", "epochs": 13},
        {"budget": 3, "estimator": "dreg"},
        {"lr_schedule": "cosine", "lr_warmup": 9, "max_norm": 1.0},
    ],
    ids=str,
)
def test_training_is_captured_and_the_same(digits: data.ImageData, tmp_path: Path, changes: dict) -> None:
    captured = train(tmp_path / "captured", digits, settings(**{"batch_size": 20, **changes}))
    single = train(tmp_path / "single", digits, settings(**{"batch_size": 20, **changes, "capture": False}))
    assert checkpoint.load_checkpoint(captured.checkpoint).how == "captured as CUDA graphs of up to 32"
    assert checkpoint.load_checkpoint(single.checkpoint).how == "one by one: capture is switched off"
    assert_same_run(captured, single)
    rows = metrics.read_metrics(captured.metrics)
    assert rows[-1].bound > rows[0].bound


@pytest.mark.parametrize("captured_first", [True, False])
def test_going_on_with_and_without_capture(digits: data.ImageData, tmp_path: Path, captured_first: bool) -> None:
    whole = train(tmp_path / "whole", digits, settings())
    config = settings(capture=captured_first)
    broken = training.Trainer(config, runs.create_run(tmp_path / "broken", config), digits)
    assert not broken.fit(training.Reporter(), stop=lambda: broken.step >= 130)
    run, saved = runs.open_run(broken.run.folder)
    config = replace(saved.config, capture=not captured_first)
    assert training.train(config, run, digits, resume_from=saved)
    assert_same_run(whole, run)


def test_training_replays_without_waiting(digits: data.ImageData, tmp_path: Path) -> None:
    config = settings(epochs=9)
    trainer = training.Trainer(config, runs.create_run(tmp_path / "run", config), digits)
    for _ in range(4):
        while trainer.step % trainer.steps_per_epoch or not trainer.step:
            trainer.take_steps()
        trainer._end_epoch()
        trainer.take_steps()
    assert trainer.steps.reason is None
    torch.cuda.set_sync_debug_mode("error")
    try:
        while trainer.step % trainer.steps_per_epoch:
            trainer.take_steps()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.means.means().ess >= 1.0


def test_runs_side_by_side_are_those_that_they_are_alone(digits: data.ImageData, tmp_path: Path) -> None:
    """Train six runs in turns, each on a stream of its own, with one copy of the data on the device."""
    configs = [settings(seed=seed, k=k, learning_rate=rate) for seed, k, rate in zip(
        (1, 2, 3, 1, 2, 3), (1, 5, 8, 8, 5, 1), (1e-3, 1e-3, 1e-3, 1e-2, 1e-2, 1e-2), strict=True
    )]  # fmt: skip
    together = shared.SharedData()

    def beside(number: int) -> turns.Turns[bool]:
        run = runs.create_run(tmp_path / f"beside{number}", configs[number])
        in_turns = training.train_in_turns(configs[number], run, digits, shared=together)
        return turns.on_own_stream(in_turns, torch.device("cuda"))

    running = [beside(number) for number in range(len(configs))]
    while running:
        running = [each for each in running if next(each, None) is not None]
    assert len(together._sources) == 1
    for number, config in enumerate(configs):
        beside_others = runs.Run(tmp_path / f"beside{number}")
        assert checkpoint.load_checkpoint(beside_others.checkpoint).how == "captured as CUDA graphs of up to 32"
        assert_same_run(train(tmp_path / f"alone{number}", digits, config), beside_others)


def test_compiled_training_is_captured(digits: data.ImageData, tmp_path: Path) -> None:
    compiled = train(tmp_path / "compiled", digits, settings(compile=True))
    plain = train(tmp_path / "plain", digits, settings())
    how = checkpoint.load_checkpoint(compiled.checkpoint).how
    assert how == "captured as CUDA graphs of up to 32, with networks by torch.compile"
    for row, other in zip(metrics.read_metrics(compiled.metrics), metrics.read_metrics(plain.metrics), strict=True):
        assert row.bound == pytest.approx(other.bound, rel=1e-3)
