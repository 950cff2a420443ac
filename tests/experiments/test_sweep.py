"""Tests of sweeps over settings and seeds."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import signal
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import forkserver
import pytest
from runs_here import killed_command, run_here

pytest.importorskip("typer")
pytest.importorskip("sklearn")

from iwae_fast.experiments.cli import main
from iwae_fast.experiments.config import TrainConfig
from iwae_fast.experiments.many.runner import Runner
from iwae_fast.experiments.setting_text import TYPES, parse_setting, setting_text
from iwae_fast.experiments.sweep.space import Choice, Range, Space

needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="optuna, of the extra sweep, is not installed"
)

TINY = {"hidden": "6", "latent": "2", "epochs": "1", "batch_size": "40", "eval_k": "3", "eval_observations": "10"}
SET = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> Command:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["sweep", *map(str, arguments)])
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    return run_here(monkeypatch)


def trials(folder: str | Path) -> list[dict]:
    """Return the trials of sweep.json without times."""
    found = json.loads(Path(folder, "sweep.json").read_text())["trials"]
    for each in (*found, *(run for trial in found for run in trial["runs"])):
        del each["seconds"]
    return found


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("k", "5", 5),
        ("learning_rate", "1e-3", 1e-3),
        ("bound", "vr-iwae", "vr-iwae"),
        ("hidden", "200,200/100", ((200, 200), (100,))),
        ("latent", "100,50", (100, 50)),
        ("budget", "none", None),
        ("budget", "8", 8),
        ("capture", "false", False),
        ("backend", "reference", "reference"),
        ("dataset", "mnist", "mnist"),
    ],
)
def test_settings_are_read_and_written(name: str, text: str, value: object) -> None:
    assert parse_setting(name, text) == value
    assert parse_setting(name, setting_text(value)) == value


def test_every_setting_can_be_read() -> None:
    config = TrainConfig.preset("digits", latent=(20, 10))
    for name in TYPES:
        value = getattr(config, name)
        assert parse_setting(name, setting_text(value)) == value


def test_a_space() -> None:
    space = Space.parse(["epochs=3"], ["k=1,5", "hidden=8,8;4"], ["learning-rate=1e-4..1e-2:log", "batch_size=10..20"])
    assert list(space.points()) == ["k=1-hidden=8,8", "k=1-hidden=4", "k=5-hidden=8,8", "k=5-hidden=4"]
    assert space.points()["k=5-hidden=8,8"] == {"k": 5, "hidden": ((8, 8),)}
    assert space.sampled == {
        "learning_rate": Range(1e-4, 1e-2, log=True, whole=False),
        "batch_size": Range(10, 20, log=False, whole=True),
    }
    assert space.complete({"k": 1}) == {"dataset": "digits", "epochs": 3, "k": 1}
    assert Space.parse([], [], ["bound=iwae, elbo"]).sampled == {"bound": Choice({"iwae": "iwae", "elbo": "elbo"})}
    assert list(Space.parse([], [], []).points()) == [""]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a sweep needs --grid NAME=VALUE,..., --sample NAME=LOW..HIGH or several --seeds"),
        (("--grid", "k"), "--grid must be NAME=VALUE,..., got 'k'"),
        (("--grid", "k="), "k must have values separated by commas"),
        (("--grid", "k=1,,5"), "k must have values separated by commas"),
        (("--grid", "k=1,1"), "k must have different values, got 1 twice: give the number of seeds by --seeds"),
        (("--sample", "learning_rate=0.1,0.10"), "learning_rate must have different values, got 0.1 twice"),
        (("--grid", "k=1,5", "--side-by-side", "0"), "side-by-side must be at least 1"),
        (("--grid", "lerning_rate=1"), "unknown setting 'lerning_rate': did you mean 'learning_rate'?"),
        (("--grid", "k=1,five"), "k must be an int, got 'five'"),
        (("--grid", "learning_rate=fast"), "learning_rate must be a float, got 'fast'"),
        (("--grid", "capture=maybe"), "capture must be true or false, got 'maybe'"),
        (("--grid", "hidden=a;b"), "hidden must be comma-separated sizes such as 200,200, got 'a'"),
        (("--grid", "k=1,5", "--set", "k=3"), "k is given twice"),
        (("--grid", "seed=1,2"), "the seeds are given by --seeds N"),
        (("--grid", "eval_k=1,2"), "--grid eval_k=...: trials are compared by it, so give one value by --set eval_k=N"),
        (("--grid", "bound=iwae,vriwae"), "unknown bound 'vriwae': did you mean 'vr-iwae'?"),
        (("--grid", "bound=iwae,vr-iwae", "--set", "alpha=0.3"), "--alpha is an option of bound vr-iwae"),
        (("--grid", "k=1,0"), "k must be at least 1, got 0"),
        (("--grid", "k=4", "--set", "bound=miwae", "--set", "groups=3"), "MIWAE(3) needs k divisible by 3, got k = 4"),
        (("--grid", "k=1,2", "--set", "eval_k=0"), "eval_k must be at least 1"),
        (("--sample", "learning_rate=-1..1"), "learning_rate must be positive and finite, got -1.0"),
        (("--sample", "learning_rate=0..1:log"), "must begin above 0 on a logarithmic scale"),
        (("--sample", "learning_rate=1..0.1"), "must go from a lower to a higher number"),
        (("--sample", "learning_rate=0.1..1:ln"), "must be LOW..HIGH or LOW..HIGH:log"),
        (("--sample", "k=1..x"), "k must be an int, got 'x'"),
        (("--sample", "k=1..5", "--sampler", "tpr"), "unknown sampler 'tpr'"),
        (("--grid", "k=1,5", "--trials", "3"), "--trials has no effect without --sample"),
        (("--grid", "k=1,5", "--seeds", "0"), "seeds must be at least 1"),
        (("--grid", "k=1,5", "--jobs", "0"), "jobs must be at least 1"),
        (("--grid", "k=1,5", "--device", "cuda:1", "--jobs", "2"), "device must be cpu or cuda with several jobs"),
        (("--grid", "k=1,5", "--launcher", "no-such-queue"), "--launcher must begin with a program"),
    ],
)
def test_errors_come_before_the_first_run(
    arguments: tuple[str, ...],
    message: str,
    sweep: Command,
    called: list,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("iwae_fast.experiments.sweep.search.optuna_module", lambda: None)  # these need none
    code, _, error = sweep(*arguments)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert (called, list(tmp_path.iterdir())) == ([], [])


def test_without_optuna_the_extra_is_named(sweep: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, error = sweep("--grid", "k=1,5")
    assert code == 2
    assert error == (
        "iwae-fast: error: iwae-fast sweep needs optuna, which is not installed: pip install 'iwae_fast[cli,sweep]'\n"
    )
    assert list(tmp_path.iterdir()) == []


# --- runs ------------------------------------------------------------------------------------------------------------


@needs_optuna
def test_a_grid(sweep: Command, called: list, tmp_path: Path) -> None:
    grid = ("--grid", "k=1,2", "--grid", "bound=iwae,elbo", "--seeds", "2", "--set", "validation=10", "-o", "out")
    code, printed, error = sweep(*grid, *SET, "--jobs", "2")
    assert (code, error) == (0, "")
    assert "4 trials with 2 seeds each in out" in printed
    assert "warning" not in printed
    found = trials("out")
    nlls = [trial["nll"] for trial in found]
    assert nlls == sorted(nlls)
    assert {trial["point"] for trial in found} == {f"k={k}-bound={b}" for k in (1, 2) for b in ("iwae", "elbo")}
    for trial in found:
        each = [run["nll"] for run in trial["runs"]]
        assert trial["nll"] == pytest.approx(statistics.fmean(each))
        assert trial["std_error"] == pytest.approx(statistics.stdev(each) / 2**0.5)
        for run in trial["runs"]:
            folder = tmp_path / "out" / "runs" / run["name"]
            assert json.loads((folder / "config.json").read_text())["seed"] == run["seed"]
            assert (folder / "report.html").exists()
            assert run["test_nll"] == json.loads((folder / "evaluation.json").read_text())["nll"]
            (validation,) = (folder / "evaluations").glob("other-validation-*.json")
            content = json.loads(validation.read_text())
            assert (content["nll"], content["k"], content["observations"]) == (run["nll"], 3, 10)
    with (tmp_path / "out" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["validation_nll"]) for row in rows] == [run["nll"] for trial in found for run in trial["runs"]]
    assert {(row["k"], row["bound"], row["seed"]) for row in rows} == {
        (k, bound, seed) for k in "12" for bound in ("iwae", "elbo") for seed in "01"
    }
    page = (tmp_path / "out" / "sweep.html").read_text()
    assert "The validation NLL over k" in page
    assert "The validation NLL over bound" in page
    for link in re.findall(r'href="([^"]+)"', page):
        assert (tmp_path / "out" / link.replace("%3D", "=")).exists()

    called.clear()
    assert sweep(*grid, *SET)[0] == 0  # nothing is left to do
    assert called == []
    wider = ("--grid", "k=1,2", "--grid", "bound=iwae,elbo,tvo", *grid[4:])
    assert sweep(*wider, *SET)[0] == 0  # the grid may grow
    assert len(trials("out")) == 6
    assert len([arguments for arguments in called if arguments[0] == "train"]) == 4
    code, _, error = sweep(*grid, *SET, "--set", "prior=mixture")
    assert code == 2
    assert "out holds a sweep with another prior: give another folder by --output" in error


@needs_optuna
def test_without_a_validation_set_the_test_nll_counts_with_a_warning(sweep: Command, called: list) -> None:
    code, printed, _ = sweep("--seeds", "2", *SET)
    assert code == 0
    assert "warning: there is no validation set, so trials are compared by the test NLL" in printed
    (trial,) = trials("sweeps/digits-seeds")
    assert [run["name"] for run in trial["runs"]] == ["seed0", "seed1"]
    assert [run["nll"] for run in trial["runs"]] == [run["test_nll"] for run in trial["runs"]]
    assert all(arguments[0] == "train" for arguments in called)


@needs_optuna
def test_runs_side_by_side_give_the_same_table(sweep: Command, called: list, tmp_path: Path) -> None:
    grid = ("--grid", "k=1,2", "--seeds", "2", "--set", "validation=10", *SET)
    assert sweep(*grid, "-o", "alone")[0] == 0
    called.clear()
    code, printed, error = sweep(*grid, "-o", "beside", "--side-by-side", "3")
    assert (code, error) == (0, "")
    assert trials("beside") == trials("alone")
    processes = [arguments for arguments in called if arguments[0] == "side-by-side"]
    # The first job has three runs and the second one; each trains, and then evaluates the validation sets.
    assert len(processes) == 2
    assert printed.count("done: k=") == 4
    log = (tmp_path / "beside" / "runs" / "k=1-seed0.log").read_text()
    assert "training in beside/runs/k=1-seed0\n" in log
    assert "of the run's validation set" in " ".join(log.split())


@needs_optuna
def test_a_run_that_fails_side_by_side_is_tried_again(sweep: Command, called: list) -> None:
    arguments = (*SET, "--grid", "learning_rate=1e-3,1e30", "-o", "out", "--side-by-side", "2")
    code, _, error = sweep(*arguments)
    assert code == 2
    assert "learning_rate=1e+30-seed0 failed: iwae-fast: error: " in error
    assert [trial["nll"] is None for trial in trials("out")] == [False, True]
    called.clear()
    assert sweep(*arguments)[0] == 2
    assert [words[0] for words in called] == ["train"]


SEARCH = ("--grid", "bound=iwae,elbo", "--sample", "learning_rate=1e-4..1e-2:log", "--sample", "hidden=4;6")
LESS = [word for name, value in TINY.items() if name != "hidden" for word in ("--set", f"{name}={value}")]


@needs_optuna
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search(sampler: str, sweep: Command, called: list) -> None:
    assert sweep(*SEARCH, *LESS, "-o", "out", "--trials", "2", "--sampler", sampler)[0] == 0
    first = trials("out")
    assert len(first) == 4
    rates = {trial["settings"]["learning_rate"] for trial in first}
    assert len(rates) == 2  # the same ones at each point of the grid
    assert all(1e-4 <= float(rate) <= 1e-2 and float(f"{float(rate):.4g}") == float(rate) for rate in rates)
    assert {trial["settings"]["hidden"] for trial in first} <= {"4", "6"}
    called.clear()
    assert sweep(*SEARCH, *LESS, "-o", "out", "--trials", "3", "--sampler", sampler)[0] == 0
    more = trials("out")
    assert len(more) == 6
    assert all(trial in more for trial in first)
    assert len(called) == 2


@needs_optuna
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_killed_sweep_resumes_to_the_same_table(sampler: str, sweep: Command, called: list, tmp_path: Path) -> None:
    command = (*SEARCH[2:], *LESS, "--seeds", "2", "--trials", "2", "--set", "validation=8", "--sampler", sampler)
    assert sweep(*command, "-o", "whole")[0] == 0
    for kill_at in (0, 3):
        arguments = ["sweep", *command, "-o", str(tmp_path / "killed")]
        process = forkserver.context().Process(target=killed_command, args=(arguments, kill_at))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    called.clear()
    assert sweep(*command, "-o", "killed")[0] == 0
    assert 0 < len(called) < 8
    assert trials("killed") == trials("whole")


@needs_optuna
def test_an_interrupted_sweep_names_the_command_that_resumes(
    sweep: Command, called: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Runner._call

    def interrupted(self: Runner, *arguments: object) -> bool:
        call(self, *arguments)
        if len(called) == 2:
            os.kill(os.getpid(), signal.SIGINT)  # the main thread handles it
        return True

    monkeypatch.setattr(Runner, "_call", interrupted)
    code, printed, error = sweep("--grid", "k=1,2,3", *SET, "-o", "out")
    assert code == 130
    assert "interrupted, everything is saved; resume with: iwae-fast sweep --grid k=1,2,3" in error
    assert len(trials("out")) == 2
    assert "out/sweep.html" in printed
    monkeypatch.setattr(Runner, "_call", call)
    assert sweep("--grid", "k=1,2,3", *SET, "-o", "out")[0] == 0
    assert len(trials("out")) == 3
    assert len(called) == 3


@needs_optuna
def test_what_fails_is_shown_and_tried_again(sweep: Command, called: list, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Runner._call

    def failing(self: Runner, work: object, slot: object, *arguments: str) -> bool:
        return call(self, work, slot, *arguments, *(["--k", "0"] if "k=1" in work.name else []))

    monkeypatch.setattr(Runner, "_call", failing)
    code, _, error = sweep("--grid", "k=1,2", *SET, "-o", "out")
    assert code == 2
    assert "k=1-seed0 failed" in error
    assert [trial["nll"] is None for trial in trials("out")] == [False, True]
    monkeypatch.setattr(Runner, "_call", call)
    assert sweep("--grid", "k=1,2", *SET, "-o", "out")[0] == 0
    assert [trial["nll"] is None for trial in trials("out")] == [False, False]


@needs_optuna
def test_a_damaged_run_leaves_the_others_in_the_table(sweep: Command, called: list) -> None:
    arguments = (*SET, "--grid", "k=1,2", "-o", "damaged")
    assert sweep(*arguments)[0] == 0
    Path("damaged", "runs", "k=1-seed0", "config.json").write_text("")
    code, _, error = sweep(*arguments)
    assert code == 2
    assert "config.json is not JSON" in error
    assert [(trial["point"], trial["nll"] is None) for trial in trials("damaged")] == [("k=2", False), ("k=1", True)]


@needs_optuna
def test_commands_go_through_the_launcher(sweep: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one real process by a launcher."""
    script = tmp_path / "queue"
    script.write_text('#!/bin/sh\necho "$1" >> "$(dirname "$0")/names"\ncd / && exec sh -c "$2"\n')
    script.chmod(0o755)
    launcher = f"{script} {{name}} {{command}}"
    code, _, error = sweep("--grid", "k=1", "--seeds", "1", *SET, "-o", "out", "--launcher", launcher)
    assert (code, error) == (0, "")
    assert (tmp_path / "names").read_text() == "k=1-seed0\n"
    assert trials("out")[0]["nll"] > 0


@needs_optuna
def test_two_processes_share_a_sweep(sweep: Command, called: list, tmp_path: Path) -> None:
    from iwae_fast.experiments.sweep.search import Search

    space = Space.parse([], ["k=1,2"], ["learning_rate=0.1..1"])
    one, other = (Search(tmp_path, space, 2, "random") for _ in range(2))
    ours, theirs = one.trials(), other.trials()
    found = [next(each) for each in (ours, theirs, theirs, ours)]
    assert found[0] == found[1]
    assert found[2] == found[3] == one.trial("k=2", 0)
    assert list(one.trials()) == list(other.trials()) == other.known()
    one.tell(one.trial("k=1", 0), 3.0)
    other.tell(one.trial("k=1", 0), 4.0)  # the first one counts


def test_the_validation_set_of_a_run_is_evaluated(sweep: Command, called: list, capsys: pytest.CaptureFixture) -> None:
    def command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        return ended.value.code, *capsys.readouterr()

    options = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert command("train", *options, "--validation", "8", "-o", "held")[0] == 0
    assert command("train", *options, "-o", "none")[0] == 0
    code, printed, _ = command("evaluate", "held", "--validation", "--k", "4")
    assert code == 0
    assert "k = 4, 8 of 8 observations of the run's validation set" in " ".join(printed.split())
    code, _, error = command("evaluate", "none", "--validation", "--k", "4")
    assert code == 2
    assert "none does not have a validation set: train with --validation N" in error


def test_rounded_numbers_stay_in_their_range() -> None:
    assert Range(0.12344, 0.2, log=False, whole=False).value(0.1234412) == 0.12344
    assert Range(1, 10**6, log=False, whole=True).value(123456) == 123456
