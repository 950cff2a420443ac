"""Tests of learning-rate schedules and clipping: they are torch's, and a run keeps them when it resumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from same_run import assert_same_run
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LinearLR, LRScheduler, SequentialLR

import iwae_fast as iw
from iwae_fast import data
from iwae_fast.data import ImageData
from iwae_fast.experiments.config import TrainConfig
from iwae_fast.experiments.schedules import SCHEDULES, learning_rates
from iwae_fast.experiments.train import training
from iwae_fast.experiments.train.reporter import Reporter
from iwae_fast.experiments.train.runs import create_run, open_run

STEPS, EPOCHS = 5, 4
TOTAL = STEPS * EPOCHS


@pytest.fixture(scope="module")
def digits() -> ImageData:
    images = data.load("digits")
    return replace(images, train=images.train[:110], test=images.test[:20])


def settings(**changes: object) -> TrainConfig:
    small = {"hidden": (8,), "latent": 2, "k": 3, "batch_size": 25, "epochs": EPOCHS, "seed": 11}
    return TrainConfig.preset("digits", **{**small, **changes})


def torchs(name: str, warmup: int, final: float) -> list[float]:
    """Return the learning rates of the schedulers of torch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    left = TOTAL - warmup
    later: LRScheduler = {
        "constant": lambda: LinearLR(optimizer, 1.0, 1.0, left),
        "linear": lambda: LinearLR(optimizer, 1.0, final, left),
        "cosine": lambda: CosineAnnealingLR(optimizer, left, 0.02 * final),
        "exponential": lambda: ExponentialLR(optimizer, final ** (1 / left)),
    }[name]()
    scheduler = later
    if warmup:
        rising = LinearLR(optimizer, 1 / warmup, 1.0, warmup - 1)
        scheduler = SequentialLR(optimizer, [rising, later], [warmup])
    found = []
    for _ in range(TOTAL):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("warmup", "final"), [(0, 0.1), (7, 0.01)])
def test_schedules_are_those_of_torch(name: str, warmup: int, final: float) -> None:
    config = settings(lr_schedule=name, lr_warmup=warmup, lr_final=final, learning_rate=0.02)
    found = torch.cat([learning_rates(config, epoch, STEPS) for epoch in range(EPOCHS)])
    assert found.tolist() == pytest.approx(torchs(name, warmup, final), rel=1e-9)


def test_the_optimizer_uses_the_rate_of_each_step(digits: ImageData, tmp_path: Path) -> None:
    config = settings(lr_schedule="linear", lr_warmup=3, max_norm=0.5)
    trainer = training.Trainer(config, create_run(tmp_path / "run", config), digits)
    assert trainer.optimizer.max_norm == 0.5
    used = []
    trainer.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(float(optimizer.param_groups[0]["lr"])))
    assert trainer.fit(Reporter())
    expected = torch.cat([learning_rates(config, epoch, STEPS) for epoch in range(EPOCHS)])
    assert used == pytest.approx(expected.tolist(), rel=1e-6)


@pytest.mark.parametrize("protocol", ["constant", "code"])
@pytest.mark.parametrize("taken", [2, 12])
def test_a_resumed_run_has_the_same_rates_and_clipping(
    digits: ImageData, tmp_path: Path, protocol: str, taken: int
) -> None:
    schedule = {"lr_schedule": "cosine"} if protocol == "constant" else {}
    config = settings(protocol=protocol, lr_warmup=4, max_norm=0.3, **schedule)
    whole = create_run(tmp_path / "whole", config)
    assert training.train(config, whole, digits)
    broken = create_run(tmp_path / "broken", config)
    calls = iter([False] * (taken - 1) + [True])
    assert not training.train(config, broken, digits, stop=lambda: next(calls))
    broken, checkpoint = open_run(broken.folder)
    assert training.train(checkpoint.config, broken, digits, resume_from=checkpoint)
    assert_same_run(whole, broken)
    free = create_run(tmp_path / "free", replace(config, max_norm=None))
    training.train(replace(config, max_norm=None), free, digits)
    with pytest.raises(AssertionError):
        assert_same_run(whole, free)


def test_clipping_where_no_backend_has_adam(digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IWAE_FAST_BACKEND", "reference")
    config = settings(max_norm=0.3, epochs=1)
    trainer = training.Trainer(config, create_run(tmp_path / "run", config), digits)
    assert (type(trainer.optimizer), trainer.optimizer.max_norm) == (iw.optim.Adam, 0.3)
    assert trainer.fit(Reporter())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr_schedule": "cosin"}, "unknown lr_schedule 'cosin': did you mean 'cosine'?"),
        ({"lr_schedule": "linear", "protocol": "paper"}, "lr_schedule must be 'constant' with protocol 'paper'"),
        ({"lr_warmup": -1}, "lr_warmup must be at least 0, got -1"),
        ({"lr_final": 0.0}, "lr_final must be above 0 and at most 1, got 0.0"),
        ({"lr_final": 1.5}, "lr_final must be above 0 and at most 1, got 1.5"),
        ({"max_norm": 0.0}, "max_norm must be positive and finite, got 0.0"),
        ({"max_norm": float("nan")}, "max_norm must be positive and finite, got nan"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
    ],
)
def test_bad_settings(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_a_warmup_longer_than_the_run_is_refused(digits: ImageData) -> None:
    training.check(settings(lr_warmup=TOTAL), digits)
    with pytest.raises(ValueError, match="lr_warmup must be at most 20, the number of steps of the run, got 21"):
        training.check(settings(lr_warmup=TOTAL + 1), digits)
