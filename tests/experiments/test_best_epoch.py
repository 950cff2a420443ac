"""Tests of the best checkpoint and of early stopping, with validation bounds that the tests choose."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from same_run import assert_same_run

import iwae_fast as iw
from iwae_fast import data
from iwae_fast.data import ImageData
from iwae_fast.experiments.config import TrainConfig
from iwae_fast.experiments.many.training import is_trained
from iwae_fast.experiments.train import training
from iwae_fast.experiments.train.checkpoint import CheckpointError, load_checkpoint
from iwae_fast.experiments.train.position import Position
from iwae_fast.experiments.train.reporter import Reporter
from iwae_fast.experiments.train.runs import Run, continue_elsewhere, create_run, open_run, open_trained
from iwae_fast.experiments.train.selection import Best, better, is_over
from iwae_fast.experiments.train.validation import Validation

BOUNDS = (-9.0, -7.0, -8.0, -7.0, -7.5, -6.0, -6.5, -6.6, -6.7, -6.8)
"""Validation bounds by epoch: the best epochs are 1, 2 and 6."""
IN_EPOCH = 4


@pytest.fixture(scope="module")
def digits() -> ImageData:
    images = data.load("digits")
    return replace(images, train=images.train[:120], test=images.test[:20])


@pytest.fixture(autouse=True)
def bounds(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, float]:
    """Give the epochs of every run these bounds, by the parameters that the model has after them."""
    known: dict[bytes, float] = {}

    def bound(_: Validation, model: torch.nn.Module, __: object = None) -> float:
        key = next(model.parameters()).detach().numpy().tobytes()
        return known.setdefault(key, BOUNDS[len(known) % len(BOUNDS)])

    monkeypatch.setattr(Validation, "bound", bound)
    return known


def settings(**changes: object) -> TrainConfig:
    small = {"hidden": (8,), "latent": 2, "k": 3, "batch_size": 25, "epochs": 10, "validation": 20, "seed": 5}
    return TrainConfig.preset("digits", **{**small, "patience": 3, **changes})


def stop_after(steps: int) -> object:
    calls = iter([False] * (steps - 1) + [True])
    return lambda: next(calls)


def train(folder: Path, images: ImageData, config: TrainConfig, **options: object) -> Run:
    run = create_run(folder, config)
    training.train(config, run, images, **options)
    return run


def go_on(run: Run, images: ImageData, stop: object = lambda: False, **changes: object) -> Run:
    run, checkpoint = open_run(run.folder)
    config = replace(checkpoint.config, **changes)
    training.train(config, run, images, resume_from=checkpoint, stop=stop)
    return run


class Told(Reporter):
    """A reporter that keeps the early stop."""

    stop: tuple[int, Best] | None = None

    def stopped_early(self, epoch: int, best: Best) -> None:
        self.stop = epoch, best


def steps(run: Run) -> tuple[int, int]:
    """Return the steps of the last and of the best checkpoint."""
    return load_checkpoint(run.checkpoint).step, load_checkpoint(run.best).step


def test_the_best_of_equal_epochs_is_the_first_and_nan_never_is() -> None:
    best = better(None, 1, 4, math.nan)
    assert best == Best(1, 4, -math.inf)
    best = better(best, 2, 8, -3.0)
    assert better(best, 3, 12, -3.0) == better(best, 3, 12, math.nan) == Best(2, 8, -3.0)
    assert [is_over(best, epoch, 2) for epoch in (2, 3, 4, 5)] == [False, False, True, True]
    assert not is_over(None, 5, 2)
    assert not is_over(best, 50, None)


def test_training_stops_after_the_patience_and_keeps_the_best(digits: ImageData, tmp_path: Path) -> None:
    told = Told()
    run = train(tmp_path / "run", digits, settings(), reporter=told)
    assert told.stop == (5, Best(2, 2 * IN_EPOCH, -7.0))
    assert steps(run) == (5 * IN_EPOCH, 2 * IN_EPOCH)
    assert is_trained(run)
    _, last = open_run(run.folder)
    _, best = open_trained(run.folder)
    again = train(tmp_path / "two epochs", digits, settings(epochs=2, patience=None))
    torch.testing.assert_close(best.model, load_checkpoint(again.checkpoint).model, rtol=0, atol=0)
    assert Position.of(last, digits).describe() == "step 20, the end of epoch 5 of 10: training stopped early"
    where = Position.of(best, digits)
    assert where.describe() == (
        "step 8, the end of epoch 2 of 10: the best of 5 by its validation bound; training stopped early"
    )
    assert json.loads(json.dumps(where.to_json()))["last_step"] == 20


def test_more_patience_goes_on_as_if_training_had_never_stopped(digits: ImageData, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", digits, settings(patience=4))
    assert steps(whole) == (10 * IN_EPOCH, 6 * IN_EPOCH)
    run = train(tmp_path / "run", digits, settings(patience=3))
    before = run.checkpoint.read_bytes(), run.metrics.read_bytes()
    go_on(run, digits)
    assert (load_checkpoint(run.checkpoint).step, run.metrics.read_bytes()) == (20, before[1])
    go_on(run, digits, patience=4)
    assert_same_run(whole, run)
    assert steps(run) == steps(whole)
    torch.testing.assert_close(load_checkpoint(run.best).model, load_checkpoint(whole.best).model, rtol=0, atol=0)


@pytest.mark.parametrize("taken", [3, 8, 9, 19])
def test_a_stop_within_or_between_epochs_leaves_no_trace(digits: ImageData, tmp_path: Path, taken: int) -> None:
    whole = train(tmp_path / "whole", digits, settings())
    run = train(tmp_path / "run", digits, settings(), stop=stop_after(taken))
    go_on(run, digits)
    assert_same_run(whole, run)
    assert steps(run) == steps(whole)


def test_a_crash_between_the_two_files_is_repaired(digits: ImageData, tmp_path: Path) -> None:
    run = train(tmp_path / "run", digits, settings(), stop=stop_after(2 * IN_EPOCH))
    expected = load_checkpoint(run.best).model
    for damage in (run.best.unlink, lambda: run.best.write_bytes(b"half")):
        damage()
        _, best = open_trained(run.folder)  # the last checkpoint has the same state
        torch.testing.assert_close(best.model, expected, rtol=0, atol=0)
    go_on(run, digits, stop=stop_after(1))
    torch.testing.assert_close(load_checkpoint(run.best).model, expected, rtol=0, atol=0)
    run.best.write_bytes(run.checkpoint.read_bytes())
    with pytest.raises(CheckpointError, match=r"best.safetensors must be the checkpoint of step 8, got that of 9"):
        open_trained(run.folder)


def test_a_kill_while_later_epochs_are_not_saved(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resume from a checkpoint that is older than the last row of the metrics."""
    whole = train(tmp_path / "whole", digits, settings())
    run = create_run(tmp_path / "run", settings())
    trainer = training.Trainer(settings(), run, digits)

    def kill(row: object) -> None:
        if trainer.step == 4 * IN_EPOCH:
            raise KeyError("killed")

    reporter = Told()
    monkeypatch.setattr(reporter, "epoch_ended", kill)
    with pytest.raises(KeyError):
        trainer.fit(reporter)
    assert steps(run) == (2 * IN_EPOCH, 2 * IN_EPOCH)
    go_on(run, digits)
    assert_same_run(whole, run)
    assert steps(run) == steps(whole)


def test_another_objective_begins_with_no_best_epoch(digits: ImageData, tmp_path: Path) -> None:
    """Resume with another k, whose bounds cannot be compared with those before."""
    run = train(tmp_path / "run", digits, settings(), stop=stop_after(2 * IN_EPOCH))
    other = continue_elsewhere(run, tmp_path / "other", settings(k=4))
    assert load_checkpoint(other.best).step == 2 * IN_EPOCH
    go_on(other, digits, stop=stop_after(1))
    assert load_checkpoint(other.checkpoint).best is None
    assert not other.best.exists()
    assert iw.load_run(other.folder).which == "last"
    go_on(other, digits, stop=stop_after(3))
    assert load_checkpoint(other.checkpoint).best == Best(3, 3 * IN_EPOCH, -8.0)
    assert steps(run) == (8, 8)


def test_the_best_is_kept_without_patience_and_load_run_says_which_it_loads(digits: ImageData, tmp_path: Path) -> None:
    run = train(tmp_path / "run", digits, settings(patience=None, keep_best=True))
    assert steps(run) == (10 * IN_EPOCH, 6 * IN_EPOCH)
    loaded = {which: iw.load_run(run.folder, checkpoint=which) for which in (None, "best", "last")}
    assert [(one.which, one.step) for one in loaded.values()] == [("best", 24), ("best", 24), ("last", 40)]
    torch.testing.assert_close(dict(loaded[None].model.state_dict()), load_checkpoint(run.best).model, rtol=0, atol=0)
    with pytest.raises(ValueError, match="unknown checkpoint 'bests': did you mean 'best'"):
        iw.load_run(run.folder, checkpoint="bests")
    plain = train(tmp_path / "plain", digits, settings(patience=None, epochs=1))
    assert not plain.best.exists()
    assert iw.load_run(plain.folder).which == "last"
    with pytest.raises(ValueError, match="does not have a checkpoint of the best epoch: train with --keep-best or"):
        iw.load_run(plain.folder, checkpoint="best")


def test_a_validation_set_is_required(digits: ImageData) -> None:
    training.check(settings(), digits)
    with pytest.raises(ValueError, match="--patience needs a validation set, which digits does not have: add"):
        training.check(settings(validation=0), digits)
    with pytest.raises(ValueError, match="--keep-best needs a validation set"):
        training.check(settings(validation=0, patience=None, keep_best=True), digits)
    training.check(settings(validation=0), replace(digits, valid=digits.test))
