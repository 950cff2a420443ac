"""Tests that several processes train and evaluate as one does, and how they end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

pytest.importorskip("typer")
pytest.importorskip("sklearn")

from paths import ROOT, TESTS
from same_run import assert_same_run
from several_processes import Ended, Several

from iwae_fast.experiments.cli import main
from iwae_fast.experiments.train.checkpoint import load_checkpoint
from iwae_fast.experiments.train.metrics import read_metrics
from iwae_fast.experiments.train.runs import Run

pytestmark = [
    pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo"),
    pytest.mark.xdist_group("processes"),
]

SMALL = ("--hidden", 8, "--latent", 2, "--k", 5, "--batch-size", 200, "--seed", 3)
"""8 steps per epoch; the last batch has 37 images."""
RESTLESS = ("--learning-rate", 0.3, "--lr-schedule", "cosine", "--lr-warmup", 3, "--max-norm", 5)
LONG = (*SMALL, "--epochs", 2000, "--eval-k", 0)
RESUME = "torchrun --nproc-per-node {} -m iwae_fast train --resume run"
CLOSE = 2e-5
"""Relative tolerance of numbers in float32 that several processes sum up in another order."""

Command = Callable[..., Ended]


@pytest.fixture
def several(tmp_path: Path) -> Command:
    """Run a command with several processes."""
    return lambda *arguments, size, **options: Several(*arguments, size=size, folder=tmp_path, **options).end()


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Run a command in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> None:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        assert ended.value.code == 0

    return run


def assert_close_runs(first: Run, second: Run) -> None:
    """Assert that two runs have the same settings, the same files, and the same numbers to rounding."""
    assert first.config.read_text() == second.config.read_text()
    assert {path.name for path in first.folder.iterdir()} == {path.name for path in second.folder.iterdir()}
    one, two = load_checkpoint(first.checkpoint), load_checkpoint(second.checkpoint)
    assert (one.step, one.epoch_count, one.segments) == (two.step, two.epoch_count, two.segments)
    torch.testing.assert_close(two.model, one.model, rtol=1e-3, atol=CLOSE)
    torch.testing.assert_close(two.epoch_sums, one.epoch_sums, rtol=CLOSE, atol=0)
    rows, others = read_metrics(first.metrics), read_metrics(second.metrics)
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        for name in ("epoch", "step", "bound", "ess", "max_weight", "validation"):
            assert getattr(other, name) == pytest.approx(getattr(row, name), rel=CLOSE), name
    if first.best.exists():
        assert load_checkpoint(first.best).step == load_checkpoint(second.best).step
        assert one.best.epoch == two.best.epoch
    if first.evaluation.exists():
        found, exact = (json.loads(run.evaluation.read_text()) for run in (second, first))
        for name in ("nll", "std_error", "ess", "train_nll", "reconstruction", "divergence", "nll_active_units_only"):
            assert found[name] == pytest.approx(exact[name], rel=1e-4), name
        assert found["active_units"] == exact["active_units"]
        assert found.keys() == exact.keys()


# --- the numbers of one process ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "sample_ranks", "settings"),
    [
        (2, 1, (*RESTLESS, "--epochs", 30, "--validation", 100, "--patience", 1, "--eval-k", 40)),
        (3, 1, ("--estimator", "dreg", "--budget", 2, "--eval-k", 0)),
        (2, 2, ("--validation", 100, "--bound", "vr-iwae", "--alpha", 0.5, "--chunk-size", 2, "--eval-k", 0)),
        (3, 3, ("--protocol", "paper", "--latent", "3,2", "--hidden", "8/4", "--eval-k", 0)),
    ],
)
def test_processes_train_and_evaluate_as_one(
    size: int,
    sample_ranks: int,
    settings: tuple[object, ...],
    several: Command,
    one: Callable[..., None],
    tmp_path: Path,
) -> None:
    settings = ("train", *SMALL, "--epochs", 2, "--eval-observations", 50, *settings)
    one(*settings, "-o", "one")
    ended = several(*settings, "-o", "several", "--sample-ranks", sample_ranks, size=size)
    assert (ended.codes, ended.error) == ([0] * size, "")
    assert ended.output.count("training in several") == 1
    assert ended.output.count("epoch 1/") == 1
    assert ended.output.count("\ntest NLL") == ("40" in map(str, settings))
    assert_close_runs(Run(tmp_path / "one"), Run(tmp_path / "several"))


def test_batches_smaller_than_the_number_of_processes(
    several: Command, one: Callable[..., None], tmp_path: Path
) -> None:
    """Check 7 observations in batches of 2 on 3 processes: of the last batch, two of them have nothing."""
    np.save(tmp_path / "few.npy", np.random.default_rng(0).integers(0, 2, (9, 12)).astype(np.float32))
    settings = ("train", "--data", "few.npy", *SMALL, "--batch-size", 2, "--epochs", 3, "--eval-k", 0)
    one(*settings, "-o", "one")
    ended = several(*settings, "-o", "several", size=3)
    assert (ended.codes, ended.error) == ([0] * 3, "")
    assert_close_runs(Run(tmp_path / "one"), Run(tmp_path / "several"))


def test_a_run_resumes_on_another_number_of_processes(
    several: Command, one: Callable[..., None], tmp_path: Path
) -> None:
    one("train", *SMALL, "--epochs", 6, "--eval-k", 0, "-o", "one")
    assert several("train", *SMALL, "--epochs", 2, "--eval-k", 0, "-o", "run", size=2).codes == [0] * 2
    assert several("train", "--resume", "run", "--epochs", 4, size=3).codes == [0] * 3
    one("train", "--resume", "run", "--epochs", 6)
    assert_close_runs(Run(tmp_path / "one"), Run(tmp_path / "run"))


def test_processes_evaluate_as_one(several: Command, one: Callable[..., None], tmp_path: Path) -> None:
    """Check an evaluation of the test set and of the validation set, in place of a journal of other processes."""
    one("train", *SMALL, "--epochs", 1, "--eval-k", 0, "--validation", 60, "-o", "run")
    run = Run(tmp_path / "run")
    for options in ((), ("--validation",)):
        command = ("evaluate", "run", "--k", 30, *options)
        one(*command)
        stored = [path.name for path in run.evaluations.iterdir()]
        exact = {path.name: json.loads(path.read_text())["nll"] for path in run.evaluations.glob("*.json")}
        left = run.journal(8, 30, 360)
        left.with_stem(f"{left.stem}-0-of-3").write_bytes(b"of an interrupted evaluation")
        ended = several(*command, "--sample-ranks", 2, size=2)
        assert (ended.codes, ended.error) == ([0] * 2, "")
        assert sorted(stored) == sorted(path.name for path in run.evaluations.iterdir())
        for name, nll in exact.items():
            assert json.loads((run.evaluations / name).read_text())["nll"] == pytest.approx(nll, rel=1e-5)
    assert not list(run.folder.glob("*1-of-2*"))


# --- endings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_process_stops_all_after_the_same_step(
    number: int, several: Command, one: Callable[..., None], tmp_path: Path
) -> None:
    training = Several("train", *LONG, "-o", "run", size=3, folder=tmp_path)
    training.await_epoch("run", 2)
    for _ in range(3):  # as if SLURM and torchrun both sent it
        os.kill(training.processes[1].pid, number)
    ended = training.end()
    assert ended.codes == [128 + number] * 3
    assert ended.error == f"iwae-fast: interrupted, everything is saved; resume with: {RESUME.format(3)}\n"
    run = Run(tmp_path / "run")
    step = load_checkpoint(run.checkpoint).step
    assert read_metrics(run.metrics)[-1].epoch == step // 8
    epochs = step // 8 + 2
    # The run of 2000 epochs becomes a short one.
    run.config.write_text(run.config.read_text().replace('"epochs": 2000', f'"epochs": {epochs}'))
    assert several("train", "--resume", "run", size=2).codes == [0] * 2
    one("train", *LONG, "--epochs", epochs, "-o", "one")
    assert_close_runs(Run(tmp_path / "one"), run)


def test_a_process_that_is_killed_ends_all(several: Command, tmp_path: Path) -> None:
    training = Several("train", *LONG, "-o", "run", size=3, folder=tmp_path)
    training.await_epoch("run", 2)
    training.processes[2].kill()
    ended = training.end()
    assert ended.codes == [2, 2, -signal.SIGKILL]
    assert max(ended.seconds) < 10.0
    assert ended.error.startswith("iwae-fast: error: another process has ended (")
    assert ended.error.endswith(f"resume from the last checkpoint with: {RESUME.format(3)}\n")
    assert ended.error.count("\n") == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_the_traceback_of_a_process_that_fails_is_shown(rank: int, several: Command) -> None:
    ended = several("train", *LONG, "-o", "run", size=2, raises=rank)
    assert ended.error.startswith(f"iwae-fast: process {rank} failed:\nTraceback (most recent call last):\n")
    assert ended.error.endswith("\nKeyError: 'lost'\n\n")
    assert ended.error.count("Traceback") == 1
    assert ended.codes[rank] == 1
    assert 0 not in ended.codes


@pytest.mark.slow
def test_ten_kills_leave_no_trace(several: Command, tmp_path: Path) -> None:
    """Kill a random process at a random line of training ten times; compare with a run that is not interrupted, bitwise
    on the same number of processes."""
    settings = ("--hidden", 8, "--latent", 2, "--k", 2, "--batch-size", 800, "--epochs", 40, "--eval-k", 0)
    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    assert several("train", *settings, "-o", "whole", size=2).codes == [0, 0]
    moments = random.Random(2)
    command = ("train", *settings, "-o", "killed")
    for _ in range(10):
        victim = moments.randrange(2)
        ended = several(*command, size=2, lines={victim: moments.randrange(100), 1 - victim: 10**9})
        assert ended.codes[victim] == -signal.SIGKILL
        command = ("train", "--resume", "killed", "--eval-k", 0)
    assert several(*command, size=2).codes == [0, 0]
    assert_same_run(whole, killed)
    assert {path.name for path in killed.folder.iterdir()} == {path.name for path in whole.folder.iterdir()}


# --- torchrun ---------------------------------------------------------------------------------------------------


def torchrun(
    *arguments: object, size: int, folder: Path, program: Sequence[str] = ("-m", "iwae_fast")
) -> subprocess.Popen[bytes]:
    """Start a command by torchrun, with its output in a file, so that no pipe fills up."""
    command = (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}")
    with (folder / "torchrun.log").open("w") as log:
        return subprocess.Popen(
            [*command, *program, *map(str, arguments)],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def await_rows(metrics: Path, rows: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a run has so many rows of metrics, or its process has ended."""
    deadline = time.monotonic() + 120.0
    while (
        process.poll() is None
        and time.monotonic() < deadline
        and not (metrics.exists() and metrics.read_text().count("\n") > rows)
    ):
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, oldest first."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    """Return whether a process has not ended; one that nobody has waited for still has an entry in /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_torchrun_that_is_terminated_leaves_a_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    process = torchrun("train", *LONG, "-o", "run", size=2, folder=tmp_path)
    await_rows(run.metrics, 2, process)
    process.terminate()
    process.wait(60)
    log = (tmp_path / "torchrun.log").read_text()
    assert log.count(f"iwae-fast: interrupted, everything is saved; resume with: {RESUME.format(2)}\n") == 1
    assert read_metrics(run.metrics)[-1].epoch == load_checkpoint(run.checkpoint).step // 8


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not end a process with its parent")
def test_processes_end_when_torchrun_is_killed(tmp_path: Path) -> None:
    """Check SIGUSR1 to torchrun, which ends at it by default without a word to its processes."""
    run = Run(tmp_path / "run")
    process = torchrun("train", *LONG, "-o", "run", size=2, folder=tmp_path)
    await_rows(run.metrics, 2, process)
    ranks = children(process.pid)
    assert len(ranks) == 2
    process.send_signal(signal.SIGUSR1)
    process.wait(60)
    deadline = time.monotonic() + 30.0
    while any(is_running(rank) for rank in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert read_metrics(run.metrics)[-1].epoch == load_checkpoint(run.checkpoint).step // 8


@pytest.mark.slow
def test_ten_kills_of_a_process_of_torchrun(tmp_path: Path) -> None:
    """Kill a random process at a random moment ten times; each time torchrun ends within seconds, and the run then
    resumes. The end is compared bitwise with a run that was not interrupted."""
    settings = ("train", *SMALL, "--epochs", 100, "--eval-k", 30)
    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    program = (str(TESTS / "support" / "killed_training.py"),)
    start = partial(torchrun, size=2, folder=tmp_path, program=program)
    assert start(*settings, "-o", "whole").wait(300) == 0
    moments, seconds = random.Random(4), list[float]()
    command = (*settings, "-o", "killed")
    for kill in range(10):
        process = start(*command)
        done = len(read_metrics(killed.metrics)) if killed.metrics.exists() else 0
        await_rows(killed.metrics, done + 1, process)
        time.sleep(moments.random())
        ranks = children(process.pid)
        os.kill(ranks[moments.randrange(2)], signal.SIGKILL)
        since = time.monotonic()
        assert process.wait(60) == 1, f"kill {kill}"
        seconds.append(time.monotonic() - since)
        command = ("train", "--resume", "killed")
    assert start(*command).wait(300) == 0
    assert_same_run(whole, killed)
    found, exact = (json.loads(run.evaluation.read_text())["nll"] for run in (killed, whole))
    assert found == exact
    print("seconds until torchrun ended:", [round(each, 1) for each in seconds])
    assert max(seconds) < 30.0  # mostly those of Python and torchrun on a busy machine


# --- wrong use --------------------------------------------------------------------------------------------------


def test_an_error_of_all_processes_is_shown_once(several: Command, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for command, message in (
        (("train", "-o", "full"), "the folder full is not empty: choose another one"),
        (("train", "--no-such-option"), "No such option: --no-such-option"),
        (("train", "--sample-ranks", 3), "sample-ranks must divide the number of processes, 2, got 3"),
        (("evaluate", "nowhere"), "nowhere is not the folder of a run"),
        (("train", "--device", "cuda:1"), "device must be cpu or cuda with several processes"),
        (("compare", "full", "full"), "compare runs in one process: start it without torchrun"),
    ):
        ended = several(*command, size=2)
        assert ended.codes == [2, 2]
        assert ended.error.startswith(f"iwae-fast: error: {message}"), ended.error
        assert ended.error.count("\n") == 1


def test_sample_ranks_need_several_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["train", "--sample-ranks", "2"])
    assert capsys.readouterr().err == (
        "iwae-fast: error: sample-ranks must divide the number of processes, 1, got 2: start several with torchrun "
        "--nproc-per-node N -m iwae_fast\n"
    )
    assert not list(tmp_path.iterdir())
