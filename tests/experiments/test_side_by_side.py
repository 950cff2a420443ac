"""Tests of runs side by side in one process: each is the run that it is alone, whatever happens to the others."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from same_run import assert_same_run

pytest.importorskip("typer")
pytest.importorskip("sklearn")

from runs_here import few_digits

from iwae_fast.experiments.cli import main, training_run
from iwae_fast.experiments.many.plan import Command, Plan
from iwae_fast.experiments.train import shared
from iwae_fast.experiments.train.checkpoint import load_checkpoint
from iwae_fast.experiments.train.runs import Run, in_use
from iwae_fast.experiments.train.training import Trainer

TINY = ("--hidden", "6", "--latent", "2", "--batch-size", "10", "--eval-k", "3", "--eval-observations", "10")
RUNS = {
    "one": ("--k", "1", "--seed", "3", "--epochs", "3"),
    "two": ("--k", "5", "--seed", "3", "--epochs", "2", "--hidden", "5,4"),
    "three": (
        "--k",
        "5",
        "--seed",
        "4",
        "--epochs",
        "3",
        "--learning-rate",
        "0.01",
        "--validation",
        "8",
        "--keep-best",
    ),
}
"""Options of runs by name."""

Call = Callable[..., int]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return few_digits(monkeypatch)


def call(*arguments: str) -> int:
    """Return the exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def train(name: str, folder: str, *more: str) -> list[str]:
    return ["train", *TINY, *RUNS[name], *more, "--output", f"{folder}/{name}"]


def resume(name: str, folder: str) -> list[str]:
    return ["train", "--resume", f"{folder}/{name}"]


def together(commands: dict[str, list[str]]) -> tuple[int, dict[str, int]]:
    """Run commands side by side; return the exit code of the process, and those of the commands."""
    plan = Plan(Path("plans/plan.json").absolute())
    plan.write([Command(name, words, f"{name}.log") for name, words in commands.items()])
    return call("side-by-side", str(plan.path)), plan.codes()


def assert_same(one: str, other: str) -> None:
    """Assert that two folders hold the same run with the same evaluation."""
    assert_same_run(Run(Path(one)), Run(Path(other)))
    first, second = (json.loads(Run(Path(folder)).evaluation.read_text()) for folder in (one, other))
    names = ("nll", "std_error", "ess", "train_nll", "active_units", "step")
    assert {name: first[name] for name in names} == {name: second[name] for name in names}
    configs = [json.loads(Run(Path(folder)).config.read_text()) for folder in (one, other)]
    assert configs[0] == configs[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train every run alone; return the folder that has all of them."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as monkeypatch:
        few_digits(monkeypatch)
        for name in RUNS:
            assert call(*train(name, str(folder))) == 0
    return folder


@pytest.fixture
def alone(loaded: list[str], trained: Path) -> None:
    """Provide the runs that were trained alone in the folder "alone"."""
    shutil.copytree(trained, "alone")


def test_runs_side_by_side_are_those_that_they_are_alone(
    alone: None, loaded: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    copied: list[int] = []

    class Counted(shared.Source):
        def __init__(self, observations: object, *rest: object) -> None:
            copied.append(len(observations))
            super().__init__(observations, *rest)

    monkeypatch.setattr(shared, "Source", Counted)
    turns: list[Path] = []
    take_steps = Trainer.take_steps
    monkeypatch.setattr(Trainer, "take_steps", lambda self: (turns.append(self.run.folder.name), take_steps(self))[1])
    capsys.readouterr()
    assert together({name: train(name, "beside") for name in RUNS}) == (0, dict.fromkeys(RUNS, 0))
    for name in RUNS:
        assert_same(f"alone/{name}", f"beside/{name}")
    assert loaded == ["digits"]
    assert copied == [40, 32]  # for the runs without a validation set and the one with it
    assert turns[:9] == ["one", "two", "three"] * 3
    assert turns[-3:] != ["three"] * 3
    assert capsys.readouterr().out == ""  # each run has its own log
    for name in RUNS:
        log = Path(f"{name}.log").read_text()
        assert log.startswith(f"training in beside/{name}\nepoch 1/")
        assert log.endswith(f"run folder beside/{name}\n")
        command = json.loads(Run(Path("beside", name)).evaluation.read_text())["command"]
        assert command == " ".join(["iwae-fast", *train(name, "beside")])


def test_one_that_fails_does_not_stop_the_others(alone: None) -> None:
    commands = {name: train(name, "beside") for name in RUNS}
    commands["diverging"] = train("one", "diverged", "--learning-rate", "1e30")
    commands["wrong"] = ["train", "--k", "0"]
    commands["typo"] = ["train", "--no-such-option"]
    codes = dict.fromkeys(commands, 0) | {"diverging": 2, "wrong": 2, "typo": 2}
    assert together(commands) == (2, codes)
    for name in RUNS:
        assert_same(f"alone/{name}", f"beside/{name}")
    assert "iwae-fast: error: the loss is not finite" in Path("diverging.log").read_text()
    assert Path("wrong.log").read_text() == "iwae-fast: error: k must be at least 1, got 0\n"
    assert "no-such-option" in Path("typo.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_saves_all_of_them(
    alone: None, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    taken: list[int] = []
    take_steps = Trainer.take_steps

    def signaled(self: Trainer) -> None:
        take_steps(self)
        taken.append(self.step)
        if len(taken) == 14:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Trainer, "take_steps", signaled)
    stopped = 128 + number
    assert together({name: train(name, "beside") for name in RUNS}) == (stopped, dict.fromkeys(RUNS, stopped))
    assert len(taken) == 16  # each of the others ends the step that it begins
    for name in RUNS:
        run = Run(Path("beside", name))
        assert load_checkpoint(run.checkpoint).step in (5, 6)
        assert not in_use(run.folder)
        log = Path(f"{name}.log").read_text()
        assert log.endswith(f"interrupted, everything is saved; resume with: iwae-fast train --resume beside/{name}\n")
    assert together({name: resume(name, "beside") for name in RUNS}) == (0, dict.fromkeys(RUNS, 0))
    for name in RUNS:
        assert_same(f"alone/{name}", f"beside/{name}")


def test_a_signal_in_an_evaluation_leaves_those_that_follow(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    close, closed = training_run._close, []

    def interrupted(run: Run, *rest: object) -> None:
        closed.append(run.folder.name)
        if len(closed) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        close(run, *rest)

    monkeypatch.setattr(training_run, "_close", interrupted)
    codes = {"one": 0, "two": 130, "three": 130}
    assert together({name: train(name, "beside") for name in RUNS}) == (130, codes)
    assert closed == ["one", "two"]
    assert "training is done but its evaluation is not" in Path("three.log").read_text()
    assert together({name: resume(name, "beside") for name in ("two", "three")})[0] == 0
    for name in RUNS:
        assert_same(f"alone/{name}", f"beside/{name}")


def test_other_commands_follow_training(loaded: list[str]) -> None:
    assert call(*train("two", "runs")) == 0
    evaluate = ["evaluate", "runs/two", "--k", "4"]
    assert together({"one": train("one", "runs"), "evaluate": evaluate})[0] == 0
    assert "k = 4, 20 of 20 test images" in Path("evaluate.log").read_text()


def test_a_file_without_a_plan_is_refused(loaded: list[str], capsys: pytest.CaptureFixture) -> None:
    Path("plan.json").write_text('{"commands": [{"name": "x"}]}')
    assert call("side-by-side", "plan.json") == 2
    assert "plan.json does not hold commands to run side by side" in capsys.readouterr().err
