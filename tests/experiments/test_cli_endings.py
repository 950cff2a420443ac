"""Tests of how commands end: after signals, with file errors, and with an evaluation whose cost fits the training."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("typer")
pytest.importorskip("sklearn")

from iwae_fast.experiments.cli import closing, main, progress
from iwae_fast.experiments.cli.forecast import Forecast, spoken
from iwae_fast.experiments.train.checkpoint import load_checkpoint

SMALL = ("--hidden", "8", "--latent", "2", "--k", "2", "--batch-size", "200", "--seed", "3")
STEPS_AN_EPOCH = 8

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> Command:
    monkeypatch.chdir(tmp_path)

    def run_here(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return ended.value.code, *capsys.readouterr()

    return run_here


def config(folder: str) -> dict:
    return json.loads(Path(folder, "config.json").read_text())


# --- signals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_in_training_leaves_a_checkpoint(
    number: int, code: int, here: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    monkeypatch.setattr(
        progress.PlainReporter, "epoch_ended", lambda _, row: os.kill(os.getpid(), number) if row.epoch == 2 else None
    )
    ended, _, error = here("train", *SMALL, "--epochs", 5, "-o", "run")
    assert ended == code
    assert error == "iwae-fast: interrupted, everything is saved; resume with: iwae-fast train --resume run\n"
    assert load_checkpoint(Path("run/checkpoint.safetensors")).step == 2 * STEPS_AN_EPOCH
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_evaluation(number: int, code: int, here: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "evaluate_run", lambda *_, **__: os.kill(os.getpid(), number))
    ended, _, error = here("train", *SMALL, "--epochs", 1, "-o", "run")
    assert ended == code
    assert "training is done but its evaluation is not; resume with: iwae-fast train --resume run" in error
    ended, _, error = here("evaluate", "run", "--k", 5)
    assert ended == code
    assert error in ("iwae-fast: interrupted\n", "iwae-fast: terminated\n")


# --- the evaluation after training ------------------------------------------------------------------------------


def test_a_resume_keeps_the_evaluation_that_was_asked_for(here: Command) -> None:
    assert here("train", *SMALL, "--epochs", 1, "--eval-k", 0, "-o", "run")[0] == 0
    assert config("run")["eval_k"] == 0
    code, printed, error = here("train", "--resume", "run", "--epochs", 2)
    assert (code, error) == (0, "")
    assert "test NLL" not in printed
    assert not Path("run/evaluation.json").exists()
    code, printed, _ = here("train", "--resume", "run", "--eval-k", 30, "--eval-observations", 40)
    assert code == 0
    assert "40 of 360 test images" in printed
    assert "to evaluate on all 360 test observations: iwae-fast evaluate run" in printed
    evaluation = json.loads(Path("run/evaluation.json").read_text())
    assert [evaluation[name] for name in ("k", "observations", "train_observations")] == [30, 40, 40]
    assert (config("run")["eval_k"], config("run")["eval_observations"]) == (30, 40)
    verdict = next(line for line in printed.splitlines() if "Pareto k-hat" in line)
    assert "the shape of the tail of the importance weights" in verdict
    assert "of the 40 test observations" in verdict


def test_long_work_is_announced_once_it_was_measured() -> None:
    now, announced, reminded = [0.0], [], []
    forecast = Forecast(1000, announced.append, lambda part, left: reminded.append((part, left)), lambda: now[0])
    forecast.reach(500)  # kept from an earlier time
    for _ in range(4):
        now[0] += 1.0
        forecast.add(1)
    assert announced == [pytest.approx(498.0)]  # after two seconds, of one each
    now[0] += 30.0
    forecast.add(6)
    assert reminded == [(0.51, pytest.approx(34.0 / 10 * 490))]
    assert len(announced) == 1


def test_short_work_is_not_announced() -> None:
    now, announced = [0.0], []
    forecast = Forecast(10, announced.append, clock=lambda: now[0])
    for done in range(11):
        forecast.reach(done)
        now[0] += 1.0
    assert announced == []


def test_evaluation_says_how_to_make_it_shorter(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress, "Forecast", lambda *arguments: Forecast(*arguments, lambda: now[0]))
    with progress.evaluation_progress(6000, 60, 100, "fewer with --eval-observations") as begin:
        advance = begin("test images", 5000)
        for _ in range(4):
            advance(100)
            now[0] += 1.0
    assert capsys.readouterr().out == (
        "evaluation takes about 60 seconds: k = 100 samples for each of 60 observations; "
        "fewer with --eval-observations\n"
    )


def test_spoken() -> None:
    assert [spoken(44.0), spoken(272.0), spoken(9000.0)] == ["40 seconds", "5 minutes", "2.5 hours"]


# --- files ------------------------------------------------------------------------------------------------------


def test_errors_of_files_are_one_line_without_numbers(here: Command, tmp_path: Path) -> None:
    assert here("train", *SMALL, "--epochs", 1, "--eval-k", 3, "-o", "run")[0] == 0
    Path("text.npy").write_text("1 2 3\n")
    Path("torn").mkdir()
    Path("folder.png").mkdir()
    for name in ("config.json", "metrics.csv", "checkpoint.safetensors", "evaluation.json"):
        Path("torn", name).write_bytes(Path("run", name).read_bytes())
    Path("torn/evaluation.npz").write_text("no arrays")
    no_numpy = "it is not a NumPy file, or it holds Python objects, which are never loaded"
    for arguments, message in (
        (
            ("sample", "run", "-o", "/nonexistent/x.png"),
            "cannot write /nonexistent/x.png: the folder /nonexistent does not exist",
        ),
        (("sample", "run", "-o", "folder.png"), "cannot write folder.png: it is a folder"),
        (("sample", "run", "-o", "/proc/x.png"), "cannot write /proc/x.png: no such file or directory"),
        (
            ("compare", "run", "run", "--json", "nowhere/x.json"),
            "cannot write nowhere/x.json: the folder nowhere does not exist",
        ),
        (("train", "--data", "text.npy"), f"text.npy is damaged or does not hold plain arrays: {no_numpy}"),
        (("train", "--data", tmp_path / "odd.npz"), f"{tmp_path / 'odd.npz'} does not exist"),
        (("compare", "run", "torn"), f"torn/evaluation.npz does not hold the results of an evaluation: {no_numpy}"),
        (("train", "-o", "text.npy/run"), "text.npy/run: not a directory"),
    ):
        code, _, error = here(*arguments)
        assert code == 2
        assert error.startswith("iwae-fast: error: ")
        assert message in error
        assert error.count("\n") == 1
        assert "Errno" not in error
        assert "allow_pickle" not in error
