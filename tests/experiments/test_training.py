"""Tests of training: it learns, resumes exactly from any point, and never saves non-finite values."""

import shutil
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from same_run import assert_same_run

from iwae_fast import data
from iwae_fast.backends import BackendError
from iwae_fast.experiments.config import TrainConfig, usable_device
from iwae_fast.experiments.train import steps, training
from iwae_fast.experiments.train.checkpoint import CheckpointError, load_checkpoint
from iwae_fast.experiments.train.metrics import COLUMNS, read_metrics
from iwae_fast.experiments.train.reporter import Reporter
from iwae_fast.experiments.train.runs import Run, create_run, open_run, sole_trainer, trained_model


@pytest.fixture(scope="module")
def digits():
    """Return 110 digits: with batches of 25, an epoch has five steps, the last with a smaller batch."""
    images = data.load("digits")
    return replace(images, train=images.train[:110], test=images.test[:20])


def settings(**changes):
    small = {"hidden": (16,), "latent": 4, "k": 5, "batch_size": 25, "epochs": 3, "seed": 11}
    return TrainConfig.preset("digits", **{**small, **changes})


def train(folder, images, config=None, **options):
    config = config or settings()
    run = create_run(folder, config)
    return run, training.train(config, run, images, **options)


def stop_after(steps):
    """Return a ``stop`` that is True after this many calls."""
    remaining = iter([False] * (steps - 1) + [True])
    return lambda: next(remaining)


def go_on(run, images, **options):
    run, checkpoint = open_run(run.folder)
    return training.train(checkpoint.config, run, images, resume_from=checkpoint, **options)


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """Return an uninterrupted run."""
    run, done = train(tmp_path_factory.mktemp("runs") / "whole", digits)
    assert done
    return run


def test_same_seed_same_run(digits, whole, tmp_path):
    torch.manual_seed(123)  # torch's own generator must not matter, nor change
    state = torch.get_rng_state()
    again, _ = train(tmp_path / "again", digits)
    assert_same_run(whole, again)
    assert torch.equal(torch.get_rng_state(), state)


def test_other_seed_other_run(digits, whole, tmp_path):
    other, _ = train(tmp_path / "other", digits, settings(seed=12))
    assert read_metrics(other.metrics)[0].bound != read_metrics(whole.metrics)[0].bound


@pytest.mark.parametrize("taken", [1, 4, 5, 7, 14, 15])
def test_resuming_leaves_no_trace(digits, whole, tmp_path, taken):
    run, done = train(tmp_path / "run", digits, stop=stop_after(taken))
    assert not done
    assert load_checkpoint(run.checkpoint).step == taken
    assert len(read_metrics(run.metrics)) == taken // 5
    assert go_on(run, digits)
    assert_same_run(whole, run)


def test_resuming_again_and_again(digits, whole, tmp_path):
    run, _ = train(tmp_path / "run", digits, stop=stop_after(3))
    for taken in (1, 4, 2):
        assert not go_on(run, digits, stop=stop_after(taken))
    assert go_on(run, digits)
    assert_same_run(whole, run)


def test_rows_after_the_checkpoint_come_again(digits, whole, tmp_path):
    """Resume after a crash that left metrics later than the checkpoint, and an incomplete last row."""
    run, _ = train(tmp_path / "run", digits, stop=stop_after(7))
    earlier = run.checkpoint.read_bytes()
    go_on(run, digits, stop=stop_after(7))
    run.checkpoint.write_bytes(earlier)
    with run.metrics.open("a") as file:
        file.write("3,15,-2")
    assert go_on(run, digits)
    assert_same_run(whole, run)


def test_other_data_are_refused(digits, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    with pytest.raises(CheckpointError, match="was written with training data that differ from digits"):
        go_on(Run(folder), replace(digits, train=digits.train[:100]))


def test_two_processes_do_not_train_in_one_folder(whole):
    """Represent two processes by two holders of the lock."""
    with (
        sole_trainer(whole.folder),
        pytest.raises(ValueError, match="another process is training in"),
        sole_trainer(whole.folder),
    ):
        pass
    with sole_trainer(whole.folder):
        pass


def test_what_a_crash_left_half_written_does_not_make_a_folder_a_run(tmp_path):
    (tmp_path / ".checkpoint.safetensors.tmp").write_bytes(b"half")
    assert create_run(tmp_path, settings()).config.exists()


def test_more_epochs(digits, whole, tmp_path):
    run, _ = train(tmp_path / "run", digits, settings(epochs=1))
    _, checkpoint = open_run(run.folder)
    config = replace(checkpoint.config, epochs=3)
    assert training.train(config, run, digits, resume_from=checkpoint)
    assert_same_run(whole, run)


def test_every_observation_counts_once_an_epoch(digits, tmp_path, monkeypatch):
    seen = []
    drawn = steps.batches_as_pixels
    monkeypatch.setattr(steps, "batches_as_pixels", lambda x, *rest: seen.extend(x) or drawn(x, *rest))
    train(tmp_path / "run", digits, settings(epochs=2))
    assert [len(batch) for batch in seen] == [25, 25, 25, 25, 10] * 2
    for epoch in (seen[:5], seen[5:]):
        assert sorted(torch.cat(epoch).tolist()) == sorted(digits.train.tolist())
    assert not torch.equal(seen[0], seen[5])


def test_pixels_are_fresh_and_binary(digits, tmp_path, monkeypatch):
    drawn = []
    draw = steps.batches_as_pixels
    one = replace(digits, train=digits.train[:1].expand(25, 64))
    monkeypatch.setattr(steps, "batches_as_pixels", lambda *batch: drawn.append(draw(*batch)) or drawn[-1])
    train(tmp_path / "run", one, settings(epochs=2))
    assert set(torch.cat(drawn).unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("bound", ["iwae", "elbo"])
def test_the_bound_rises(digits, tmp_path, bound):
    run, _ = train(tmp_path / "run", digits, settings(bound=bound, epochs=15))
    rows = read_metrics(run.metrics)
    assert rows[-1].bound > rows[0].bound + 1.0
    assert all(1.0 <= row.ess <= 5.0 and 0.2 <= row.max_weight <= 1.0 for row in rows)
    assert [row.epoch for row in rows] == list(range(1, 16))
    assert [row.step for row in rows] == list(range(5, 80, 5))
    assert all(later.seconds > row.seconds > 0 for row, later in pairwise(rows))


def test_metrics_are_means_over_the_epoch(digits, whole):
    """Compare with the first epoch, repeated step by step."""
    config = settings(epochs=1)
    trainer = training.Trainer(config, whole, digits)
    values = []
    for _ in range(5):
        trainer.take_steps()
        values.append(trainer.steps.objective.last.value.double())
    assert read_metrics(whole.metrics)[0].bound == pytest.approx(torch.cat(values).mean().item(), rel=1e-12)


def test_iwae_and_elbo_differ(digits, whole, tmp_path):
    elbo, _ = train(tmp_path / "elbo", digits, settings(bound="elbo"))
    assert read_metrics(elbo.metrics)[0].bound < read_metrics(whole.metrics)[0].bound


def test_not_finite_keeps_the_last_good_checkpoint(digits, tmp_path):
    run, _ = train(tmp_path / "run", digits, stop=stop_after(7))
    good = run.checkpoint.read_bytes()
    _, checkpoint = open_run(run.folder)
    trainer = training.Trainer(checkpoint.config, run, digits)
    trainer.restore(checkpoint)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(training.TrainingError, match="not finite at step 7"):
        trainer.fit(Reporter())
    assert run.checkpoint.read_bytes() == good
    assert len(read_metrics(run.metrics)) == 1


def test_a_loss_that_becomes_infinite_stops_training(digits, tmp_path):
    config = settings(learning_rate=1e30, epochs=50)
    run = create_run(tmp_path / "run", config)
    with pytest.raises(training.TrainingError, match="loss is not finite"):
        training.train(config, run, digits)
    checkpoint = load_checkpoint(run.checkpoint)
    assert all(tensor.isfinite().all() for tensor in checkpoint.model.values())
    assert all(torch.tensor(row.bound).isfinite() for row in read_metrics(run.metrics))


def test_checkpoints_during_training(digits, tmp_path, monkeypatch):
    """Write checkpoints after an epoch if the last is old enough, and within an epoch if it is very old."""
    for due, within, expected in ((0.0, 1e9, [0, 5, 10, 15, 15]), (1e9, 1e9, [0, 15]), (1e9, 0.0, [0, 1, 2, 3, 4])):
        monkeypatch.setattr(training, "SAVE_SECONDS", due)
        monkeypatch.setattr(training, "SAVE_WITHIN_EPOCH_SECONDS", within)
        saved = []
        monkeypatch.setattr(
            training, "save_checkpoint", lambda _, checkpoint, saved=saved: saved.append(checkpoint.step)
        )
        train(tmp_path / f"{due}-{within}", digits)
        assert saved[: len(expected)] == expected


def test_trained_model_is_the_checkpoint(digits, whole):
    _, checkpoint = open_run(whole.folder)
    model = trained_model(checkpoint)
    torch.testing.assert_close(dict(model.state_dict()), checkpoint.model, rtol=0, atol=0)
    assert model.sample(3, seed=0).shape == (3, 64)


def test_a_folder_that_is_not_empty(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match="is not empty"):
        create_run(tmp_path, settings())
    assert (tmp_path / "mine.txt").read_text() == "keep me"
    assert len(list(tmp_path.iterdir())) == 1


def test_damaged_metrics(digits, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    run, _ = open_run(folder)
    run.metrics.write_text(",".join(COLUMNS) + "\n1,2,x,4,5,6,7,8\n")
    with pytest.raises(ValueError, match="has a damaged row"):
        go_on(run, digits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": -1}, "batch_size must be at least 1"),
        ({"latent": 0}, "latent must be at least 1"),
        ({"hidden": ()}, "layer sizes for each of 1 stochastic layers"),
        ({"latent": (4, 2)}, "layer sizes for each of 2 stochastic layers"),
        ({"estimator": "gdreg"}, "requires conditional priors"),
        ({"kl_warmup": -1}, "kl_warmup must be at least 0"),
        ({"kl_warmup": 5, "estimator": "rws"}, "is valid only for kl_weight = 1"),
        ({"hidden": (5, 0)}, "hidden must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive and finite"),
        ({"seed": -1}, "seed must be in"),
        ({"bound": "vae"}, "unknown bound 'vae'"),
        ({"bound": "miwae", "groups": 7, "k": 50}, r"MIWAE\(7\) needs k divisible by 7, got k = 50"),
        ({"bound": "jvi", "order": 2, "k": 2}, "needs k > 2 samples"),
        ({"bound": "elbo", "estimator": "rws"}, "is valid only for IWAE, got"),
        ({"estimator": "magic"}, "estimator must be one of"),
        ({"budget": 0}, "budget must be at least 1"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_settings_survive_json():
    assert TrainConfig.from_json(settings().to_json()) == settings()
    with pytest.raises(ValueError, match="settings missing or unknown: depth, latent"):
        TrainConfig.from_json({**{n: v for n, v in settings().to_json().items() if n != "latent"}, "depth": 2})
    earlier = {**settings().to_json(), "hidden": [16], "latent": 4}  # a run from before there were several layers
    assert TrainConfig.from_json(earlier) == settings()
    two = TrainConfig.preset("mnist", latent=(100, 50))
    assert two.hidden == ((200, 200), (100, 100))
    without = {name: value for name, value in settings().to_json().items() if name != "estimator"}
    assert TrainConfig.from_json(without).estimator == "reparameterized"  # a run from before there was a choice


def test_devices_and_backends():
    assert usable_device("cpu", None).type == "cpu"
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        usable_device("tpu", None)
    with pytest.raises(ValueError, match="torch sees"):
        usable_device("cuda:99", None)
    with pytest.raises((ValueError, BackendError), match="nonsense"):
        usable_device("cpu", "nonsense")


def test_a_setting_makes_its_objective():
    assert repr(settings(bound="vr-iwae", alpha=0.3).objective().bound) == "VRIWAE(0.3)"
    assert repr(settings(bound="piwae", groups=2, k=6).objective().bound) == "PIWAE(2)"
    assert repr(settings(bound="tvo").objective().bound) == "TVO((0.0, 0.1))"
    objective = settings(estimator="dreg", budget=2, chunk_size=3).objective()
    assert (objective.estimator, objective.budget, objective.chunk_size) == ("dreg", 2, 3)
