"""Tests of many runs at once: shared devices, launchers, interruption, and several runners at the same runs."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock
import pytest

pytest.importorskip("typer")

from iwae_fast.experiments.cli.reproduce import _part
from iwae_fast.experiments.many import runner as runner_module
from iwae_fast.experiments.many import slots as slots_module
from iwae_fast.experiments.many.launcher import Launcher
from iwae_fast.experiments.many.plan import Plan
from iwae_fast.experiments.many.runner import RunError, Runner
from iwae_fast.experiments.many.slots import Slots
from iwae_fast.experiments.reproduce.tables import RunOfTable


@dataclass(frozen=True)
class FileWork:
    """A work that is done once its folder has a file ``done``."""

    name: str
    parent: Path
    words: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.parent / self.name

    def next_command(self) -> list[str] | None:
        return None if (self.folder / "done").exists() else [str(self.folder), *self.words]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that puts a shell script, whose first argument is the folder, in place of the command line."""
    script = tmp_path / "program.sh"
    monkeypatch.setattr(runner_module.sys, "executable", "/bin/sh")
    monkeypatch.setattr(runner_module, "COMMAND", (str(script),))
    return script.write_text


FINISH = 'mkdir -p "$1"; echo "$CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS" > "$1/done"\n'


def finish(folder: Path, works: Sequence[FileWork], **options: object) -> tuple[list[str], list[RunError]]:
    ended: list[str] = []
    errors = Runner(folder, **options).run_all(works, lambda work: ended.append(work.name))
    return ended, errors


# --- devices -----------------------------------------------------------------------------------------------------


def test_runs_are_spread_over_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(slots_module, "_cores", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    slots = Slots(5)
    contexts = [slots.one() for _ in range(5)]
    taken = [context.__enter__() for context in contexts]
    assert sorted(slot.gpu for slot in taken) == ["0", "0", "0", "1", "1"]
    assert [slot.gpu for slot in taken[:2]] == ["0", "1"]
    assert sorted(slot.number for slot in taken) == [0, 1, 2, 3, 4]
    assert taken[0].environment == {"CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "1"}
    for context in contexts[:3:2]:  # two of the three on GPU 0 end
        context.__exit__(None, None, None)
    with slots.one() as next_one:
        assert next_one.gpu == "0"


def test_the_users_choice_of_gpus_and_threads_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 7")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with Slots(2).one() as first, Slots(1).one() as alone:
        assert first.environment == {"CUDA_VISIBLE_DEVICES": "5"}
        assert alone.environment == {}


def test_more_jobs_than_gpus(program: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module.torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program(FINISH + "sleep 0.3\n")
    works = [FileWork(f"run{n}", tmp_path / "runs") for n in range(4)]
    ended, errors = finish(tmp_path / "runs", works, jobs=4)
    assert (sorted(ended), errors) == ([f"run{n}" for n in range(4)], [])
    gpus = [(work.folder / "done").read_text().split()[0] for work in works]
    assert sorted(gpus) == ["0", "0", "1", "1"]


# --- failures and interruption --------------------------------------------------------------------------------------


def test_the_end_of_a_failed_runs_log_is_kept(program: Callable, tmp_path: Path) -> None:
    program('if [ "$2" = bad ]; then seq 20; echo no such thing; exit 2; fi\n' + FINISH)
    works = [FileWork("first", tmp_path / "runs", ("bad",)), FileWork("second", tmp_path / "runs")]
    ended, (error,) = finish(tmp_path / "runs", works)
    assert ended == ["second"]
    assert str(error) == f"first failed: no such thing (see {tmp_path}/runs/first.log)"
    assert error.last_lines() == [*map(str, range(14, 21)), "no such thing"]


def test_a_run_does_not_read_what_is_piped_to_its_runner(program: Callable, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, b"typed\n")
    os.close(write)
    earlier = os.dup(0)
    os.dup2(read, 0)
    try:
        program('mkdir -p "$1"; cat > "$1/done"\n')
        assert finish(tmp_path, [FileWork("a", tmp_path)], launcher=Launcher.parse("env")) == (["a"], [])
        assert os.read(0, 10) == b"typed\n"
    finally:
        os.dup2(earlier, 0)
        os.close(earlier)
        os.close(read)
    assert (tmp_path / "a" / "done").read_text() == ""


def test_a_failure_without_output_has_its_exit_status(program: Callable, tmp_path: Path) -> None:
    program("exit 7\n")
    (error,) = finish(tmp_path, [FileWork("a", tmp_path)])[1]
    assert "a failed: it printed nothing, exit status 7" in str(error)


def test_success_without_a_result_is_a_failure(program: Callable, tmp_path: Path) -> None:
    program("exit 0\n")
    _, (error,) = finish(tmp_path / "runs", [FileWork("run", tmp_path / "runs")])
    assert str(error) == "run is not done although its command ended"


@pytest.mark.parametrize("code", ["130", "1"])  # the latter of a process that was still beginning
@pytest.mark.parametrize("launcher", [None, "env A=b", "sh -c {command}"])
def test_a_process_is_interrupted_once(code: str, launcher: str | None, program: Callable, tmp_path: Path) -> None:
    program(f'trap "echo saved; exit {code}" INT TERM\necho started\nwhile true; do sleep 0.05; done\n')
    log = tmp_path / "runs" / "run.log"
    chosen = None if launcher is None else Launcher.parse(launcher)
    asked = {"launcher": chosen, "stop": lambda: log.exists() and "started" in log.read_text()}
    assert finish(tmp_path / "runs", [FileWork("run", tmp_path / "runs")], **asked) == ([], [])
    assert [line for line in log.read_text().split() if line != "Terminated"] == ["started", "saved"]


# --- launchers -------------------------------------------------------------------------------------------------------


def test_templates() -> None:
    command, values = ["python", "-m", "x", "a b"], {"name": "run", "log": "/log", "slot": "1"}
    assert Launcher.parse("env A=1")(command, values) == ["env", "A=1", *command]
    assert Launcher.parse("sh -c 'cd /; {command}'")(command, values) == ["sh", "-c", "cd /; python -m x 'a b'"]
    assert Launcher.parse("env J={name} G={slot} --out={log}")(command, values) == [
        "env", "J=run", "G=1", "--out=/log", *command
    ]  # fmt: skip
    for template, message in (
        ("", "an empty one"),
        ("sh -c 'x", "No closing quotation"),
        ("sh {comand}", r"unknown placeholder \{comand\}: choose from \{command\}, \{name\}, \{log\}, \{slot\}"),
        ("no-such-program x", "must begin with a program of this machine, got 'no-such-program'"),
    ):
        with pytest.raises(ValueError, match=message):
            Launcher.parse(template)


QUEUE = """#!/bin/sh
# A queue: "queue [--wait] NAME COMMAND" starts the command on "another machine", with its own environment.
if [ "$1" = --wait ]; then shift; echo "submitted $1" >> "$QUEUE_LOG"; env -i PATH="$PATH" sh -c "$2"
else echo "submitted $1" >> "$QUEUE_LOG"; env -i PATH="$PATH" sh -c "$2" > /dev/null 2>&1 & fi
"""


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "queue"
    script.write_text(QUEUE)
    script.chmod(0o755)
    monkeypatch.setenv("QUEUE_LOG", str(tmp_path / "queue.log"))
    return script


def test_a_queue_runs_the_commands(queue: Path, program: Callable, tmp_path: Path) -> None:
    program('if [ "$2" = bad ]; then echo out of memory; exit 9; fi\n' + FINISH)
    works = [FileWork("a run", tmp_path / "my runs"), FileWork("bad", tmp_path / "my runs", ("bad",))]
    launcher = Launcher.parse(f"{queue} --wait {{name}} {{command}}")
    ended, (error,) = finish(tmp_path / "my runs", works, jobs=2, launcher=launcher)
    assert ended == ["a run"]
    assert "bad failed: out of memory" in str(error)
    assert (
        tmp_path / "my runs" / "a run" / "done"
    ).read_text() == " \n"  # the queue gives devices, the runner does not
    submitted = (tmp_path / "queue.log").read_text().splitlines()
    assert sorted(submitted) == ["submitted a run", "submitted bad"]
    ended, _ = finish(tmp_path / "my runs", works, launcher=launcher)
    assert ended == ["a run"]
    assert len((tmp_path / "queue.log").read_text().splitlines()) == 3


def test_a_launcher_must_wait(queue: Path, program: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "SETTLE_SECONDS", 0.5)
    launcher = Launcher.parse(f"{queue} {{name}} {{command}}")
    program("sleep 0.2\n" + FINISH)  # files that appear a little later
    assert finish(tmp_path / "runs", [FileWork("soon", tmp_path / "runs")], launcher=launcher) == (["soon"], [])
    program("sleep 30\n")
    _, (error,) = finish(tmp_path / "runs", [FileWork("late", tmp_path / "runs")], launcher=launcher)
    assert "a launcher must wait for it, as sbatch --wait does" in str(error)


# --- several runners -------------------------------------------------------------------------------------------------


def test_runners_share_the_works(program: Callable, tmp_path: Path) -> None:
    program('mkdir -p "$1"; echo started >> "$1/starts"; sleep 0.1\n' + FINISH)
    works = [FileWork(f"run{n}", tmp_path / "runs") for n in range(6)]
    found: list[tuple[list[str], list[RunError]]] = []
    threads = [threading.Thread(target=lambda: found.append(finish(tmp_path / "runs", works))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(sorted(ended), errors) for ended, errors in found] == [([work.name for work in works], [])] * 2
    assert [(work.folder / "starts").read_text() for work in works] == ["started\n"] * 6


def test_a_command_that_outlived_its_runner_is_waited_for(program: Callable, tmp_path: Path) -> None:
    program("exit 1\n")
    work = FileWork("run", tmp_path / "runs")
    work.folder.mkdir(parents=True)

    def outlive() -> None:
        (work.folder / "done").write_text("")
        lock.release()

    lock = filelock.FileLock(work.folder / ".training.lock", thread_local=False)
    lock.acquire()
    timer = threading.Timer(0.5, outlive)
    timer.start()
    assert finish(tmp_path / "runs", [work]) == (["run"], [])
    timer.join()


def test_parts_are_all_of_the_runs() -> None:
    runs = [RunOfTable(str(n), {}) for n in range(7)]
    parts = [_part(runs, f"{i}/3") for i in (1, 2, 3)]
    assert [[run.name for run in part] for part in parts] == [["0", "3", "6"], ["1", "4"], ["2", "5"]]
    assert sorted(itertools.chain(*parts), key=lambda run: run.name) == runs == _part(runs, None)


def test_the_command_line_starts() -> None:
    """Check the words by which runs are started."""
    import subprocess
    import sys

    words = [sys.executable, *runner_module.COMMAND, "--version"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout
    assert shown.startswith("iwae_fast ")


# --- several runs in one process -------------------------------------------------------------------------------------


def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Plan], bool]) -> list[list[str]]:
    """Answer the calls of processes by a function of their plan; return the names of their commands, which grow."""
    called: list[list[str]] = []

    def call(self: Runner, work: object, slot: object, *arguments: str) -> bool:
        assert arguments[0] == "side-by-side"
        called.append([command.name for command in Plan(Path(arguments[1])).commands()])
        return answer(Plan(Path(arguments[1])))

    monkeypatch.setattr(Runner, "_call", call)
    return called


def test_a_job_has_several_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def finished(plan: Plan) -> bool:
        for command in plan.commands():
            assert Path(command.log) == tmp_path / "runs" / f"{command.name}.log"
            Path(command.arguments[0]).mkdir(exist_ok=True)
            (Path(command.arguments[0]) / "done").touch()
        plan.write_codes({command.name: 0 for command in plan.commands()})
        return True

    called = answering(monkeypatch, finished)
    works = [FileWork(f"run{n}", tmp_path / "runs") for n in range(6)]
    ended, errors = finish(tmp_path / "runs", works, side_by_side=3)
    assert (ended, errors) == ([work.name for work in works], [])
    assert called == [["run0", "run1", "run2"], ["run3", "run4", "run5"]]
    assert list((tmp_path / "runs" / ".side-by-side").iterdir()) == []
    assert finish(tmp_path / "runs", works, side_by_side=4) == (ended, [])
    assert len(called) == 2


def test_the_outcomes_of_runs_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed(plan: Plan) -> bool:
        for command in plan.commands():
            if command.name == "good":
                Path(command.arguments[0]).mkdir()
                (Path(command.arguments[0]) / "done").touch()
            Path(command.log).write_text(f"{command.name} said this\n")
        plan.write_codes({"good": 0, "bad": 2, "interrupted": 130, "lazy": 0})
        raise RunError("2 of 4 commands failed")

    called = answering(monkeypatch, mixed)
    works = [FileWork(name, tmp_path / "runs") for name in ("bad", "good", "interrupted", "lazy")]
    ended, errors = finish(tmp_path / "runs", works, side_by_side=4)
    assert ended == ["good"]
    log = tmp_path / "runs" / "bad.log"
    assert [str(error) for error in errors] == [
        f"bad failed: bad said this (see {log})",
        "lazy is not done although its command ended",
    ]
    assert errors[0].last_lines() == ["bad said this"]
    assert len(called) == 1


def test_a_process_that_crashes_fails_all_of_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crashing(plan: Plan) -> bool:
        raise RunError("it failed: out of memory (see a log)")

    answering(monkeypatch, crashing)
    works = [FileWork(name, tmp_path / "runs") for name in ("a", "b")]
    ended, errors = finish(tmp_path / "runs", works, side_by_side=2)
    assert (ended, len(errors)) == ([], 2)
    assert str(errors[1]) == "b failed: it failed: out of memory (see a log)"


def test_an_interrupted_process_leaves_all_of_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = answering(monkeypatch, lambda plan: False)
    works = [FileWork(name, tmp_path / "runs") for name in ("a", "b")]
    assert finish(tmp_path / "runs", works, side_by_side=2) == ([], [])
    assert called == [["a", "b"]]


def test_a_process_of_several_runs_goes_through_the_launcher(program: Callable, tmp_path: Path) -> None:
    program(
        'mkdir -p "$(dirname "$2")/../a" "$(dirname "$2")/../b"\n'
        'touch "$(dirname "$2")/../a/done" "$(dirname "$2")/../b/done"; echo "$NAME $1"\n'
    )
    works = [FileWork(name, tmp_path / "runs") for name in ("a", "b")]
    launcher = Launcher.parse("env NAME={name}")
    assert finish(tmp_path / "runs", works, side_by_side=2, launcher=launcher) == (["a", "b"], [])
    assert (tmp_path / "runs" / ".side-by-side" / "a.log").read_text() == "a side-by-side\n"
