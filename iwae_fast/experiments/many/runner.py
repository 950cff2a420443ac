"""Concurrent processes of the command line for runs that are not done, shared with other processes like this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import filelock

from ..train.runs import in_use
from .launcher import Launcher
from .plan import Command, Plan
from .slots import Slot, Slots
from .training import DAMAGED

POLL_SECONDS = 0.2
SETTLE_SECONDS = 60.0
"""The longest time until files that a launched command wrote on another machine are visible here."""
SAVING_SECONDS = 30.0
"""The longest time that an interrupted run takes to save itself."""
INTERRUPTED = 130
SIGNALED = 128
"""Exit codes above this are those of interrupted commands."""
TOGETHER = ".side-by-side"
"""Folder of the plans, and of the logs, of processes that run several commands."""
COMMAND = ("-m", "iwae_fast")
LAST_LINES = 8


class RunError(ValueError):
    """A run failed; the message names it and its log."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log

    def last_lines(self) -> list[str]:
        """Return the end of the log."""
        return [] if self.log is None else _lines(self.log)[-LAST_LINES:]


class Named(Protocol):
    """A thing with a name, by which its log is called."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class Together:
    """Several works in one process."""

    name: str


class Work(Named, Protocol):
    """A run to finish, whose state is read from its folder."""

    @property
    def folder(self) -> Path: ...

    def next_command(self) -> list[str] | None:
        """Return the arguments of the next command of ``iwae-fast``; None once the run is done.

        Raises one of DAMAGED if the folder cannot be continued.
        """


W = TypeVar("W", bound=Work)

Outcome = bool | RunError
"""The outcome of a work: True if it is done, False if it was interrupted, or the error with which it failed."""


class Runner(Generic[W]):
    """A runner of several works at once, whose logs are in ``folder``.

    Other runners, on this machine or on others with the same file system, may work on the same works: each is claimed
    by a lock while a runner is at it.

    Args:
        folder: folder of logs and claims.
        jobs: number of concurrent runs. Without a launcher they share the cores, and the GPUs if there are several.
        launcher: template by which commands are started; None to start them on this machine.
        stop: polled continually; once it returns True the current runs are interrupted, which saves them.
        side_by_side: the most runs of a job, which share a process and its data, and are trained in turns.
    """

    def __init__(
        self,
        folder: Path,
        jobs: int = 1,
        launcher: Launcher | None = None,
        stop: Callable[[], bool] = lambda: False,
        side_by_side: int = 1,
    ) -> None:
        self.folder = folder
        self.jobs = jobs
        self.launcher = launcher
        self.stop = stop
        self.side_by_side = side_by_side
        self.slots = Slots(jobs)

    def run_all(
        self,
        works: Iterable[W | None],
        ended: Callable[[W], None],
        failed: Callable[[RunError], None] = lambda _: None,
    ) -> list[RunError]:
        """Finish all works; return the errors of those that failed, after which the others go on.

        Works that ``stop`` interrupts resume at the next call.

        Args:
            works: asked for the next one when a job is free; it yields None if there is none before another has ended.
            ended: called with each finished work.
            failed: called with each error.
        """
        source = iter(works)
        elsewhere: list[W] = []
        """Works that other runners have claimed."""
        failures: list[RunError] = []
        (self.folder / ".claims").mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(self.jobs) as pool:
            under_way: dict[Future[list[Outcome]], list[tuple[W, filelock.BaseFileLock]]] = {}
            while True:
                while len(under_way) < self.jobs and not self.stop():
                    found = self._next_few(source, elsewhere)
                    if not found:
                        break
                    under_way[pool.submit(self.run, [work for work, _ in found])] = found
                if not under_way:
                    if not elsewhere or self.stop():
                        return failures  # works that the source holds back continue from failed ones
                    time.sleep(POLL_SECONDS)
                for future in wait(under_way, POLL_SECONDS if elsewhere else None, FIRST_COMPLETED).done:
                    for (work, claim), outcome in zip(under_way.pop(future), future.result(), strict=True):
                        claim.release()
                        if outcome is True:
                            outcome = self._told(work, ended)
                        if isinstance(outcome, RunError):
                            failures.append(outcome)
                            failed(outcome)

    def _next_few(self, source: Iterator[W | None], elsewhere: list[W]) -> list[tuple[W, filelock.BaseFileLock]]:
        """Return the next works for a job, with their claims; none if there are none now."""
        found: list[tuple[W, filelock.BaseFileLock]] = []
        while len(found) < self.side_by_side and (one := self._next(source, elsewhere)) is not None:
            found.append(one)
        return found

    def _next(self, source: Iterator[W | None], elsewhere: list[W]) -> tuple[W, filelock.BaseFileLock] | None:
        """Return the next work that no other runner has claimed, with the claim; None if there is none now."""
        for work in source:
            if work is None:
                break
            claim = self._claim(work)
            if claim is not None:
                return work, claim
            elsewhere.append(work)
        for work in elsewhere:
            claim = self._claim(work)
            if claim is not None:
                elsewhere.remove(work)
                return work, claim
        return None

    def _claim(self, work: W) -> filelock.BaseFileLock | None:
        claim = filelock.FileLock(self.folder / ".claims" / f"{work.name}.lock")
        try:
            claim.acquire(timeout=0)
        except filelock.Timeout:
            return None
        return claim  # the operating system releases it when this process ends, even by a crash

    def run(self, works: Sequence[W]) -> list[Outcome]:
        """Finish works in the slot of one job; return their outcomes."""
        with self.slots.one() as slot:
            if len(works) > 1:
                return self._finish_together(works, slot)
            try:
                return [self._finish(work, slot) for work in works]
            except (RunError, *DAMAGED) as error:
                return [_error_of(works[0], error)]

    def _told(self, work: W, ended: Callable[[W], None]) -> Outcome:
        try:
            ended(work)
        except DAMAGED as error:
            return _error_of(work, error)
        return True

    def _finish(self, work: W, slot: Slot) -> bool:
        """Finish a work and return True; return False if it was interrupted. Raises RunError if it failed."""
        earlier: list[str] | None = None
        while (arguments := self._next_command(work, earlier)) is not None:
            if self.stop():
                return False
            earlier = arguments
            try:
                if not self._call(work, slot, *arguments):
                    return False
            except RunError:
                if not in_use(work.folder):
                    raise
                earlier = None  # it failed because another process is at it
        return True

    def _finish_together(self, works: Sequence[W], slot: Slot) -> list[Outcome]:
        """Finish works by processes that each run the next commands of all of them; return their outcomes."""
        outcomes: dict[str, Outcome] = {}
        earlier: dict[str, list[str] | None] = {}
        while left := [work for work in works if work.name not in outcomes]:
            found = {work.name: self._next_command_or_outcome(work, earlier.get(work.name)) for work in left}
            commands = {name: each for name, each in found.items() if isinstance(each, list)}
            outcomes |= {name: each for name, each in found.items() if not isinstance(each, list)}
            if not commands:
                continue
            folders = {work.name: work.folder for work in left}
            for name, outcome in self._call_together(commands, slot).items():
                if outcome is True:
                    earlier[name] = commands[name]
                elif isinstance(outcome, RunError) and in_use(folders[name]):
                    earlier[name] = None  # it failed because another process is at it
                else:
                    outcomes[name] = outcome
        return [outcomes[work.name] for work in works]

    def _next_command_or_outcome(self, work: W, earlier: list[str] | None) -> list[str] | Outcome:
        """Return the next command of a work, or its outcome if there is none."""
        try:
            arguments = self._next_command(work, earlier)
        except (RunError, *DAMAGED) as error:
            return _error_of(work, error)
        if arguments is None:
            return True
        return False if self.stop() else arguments

    def _call_together(self, commands: dict[str, list[str]], slot: Slot) -> dict[str, Outcome]:
        """Run commands in one process; return their outcomes by name, True for those that report success."""
        together = Together(f"{TOGETHER}/{next(iter(commands))}")
        folder = self.folder.absolute()
        plan = Plan(folder / f"{together.name}.json")
        plan.write([Command(name, words, str(folder / f"{name}.log")) for name, words in commands.items()])
        failure: RunError | None = None
        try:
            ended = self._call(together, slot, "side-by-side", str(plan.path))
        except RunError as error:
            ended, failure = True, error
        codes = plan.codes()
        plan.remove()
        outcomes: dict[str, Outcome] = {}
        for name in commands:
            log, code = self.folder / f"{name}.log", codes.get(name)
            if code is None:  # the process did not end by itself, or a launcher did not wait for it
                outcomes[name] = ended if failure is None else RunError(f"{name} failed: {failure}", failure.log)
            elif 0 < code <= SIGNALED:
                outcomes[name] = RunError(f"{name} failed: {_last_line(log, code)} (see {log})", log)
            else:
                outcomes[name] = code == 0
        return outcomes

    def _next_command(self, work: W, earlier: list[str] | None) -> list[str] | None:
        """Return the next command once no process is at the work; None if it is done.

        Raises RunError if it is still the ``earlier`` one, which reported success.
        """
        deadline: float | None = None
        while not self.stop():
            # A command may go on after its runner was killed, or after its launcher returned.
            if not in_use(work.folder):
                arguments = work.next_command()
                if arguments is None or arguments != earlier:
                    return arguments
                now = time.monotonic()
                deadline = deadline or now + (0.0 if self.launcher is None else SETTLE_SECONDS)
                if now >= deadline:
                    hint = ": a launcher must wait for it, as sbatch --wait does, and run all of its words"
                    shown = "" if self.launcher is None else hint
                    raise RunError(f"{work.name} is not done although its command ended{shown}", self._log(work))
            time.sleep(POLL_SECONDS)
        return []

    def _log(self, work: Named) -> Path:
        return self.folder / f"{work.name}.log"

    def _call(self, work: Named, slot: Slot, *arguments: str) -> bool:
        """Run a process of the command line, with its output in a log; return False if it was interrupted."""
        log = self._log(work)
        command, environment = [sys.executable, *COMMAND, *arguments], dict(os.environ)
        if self.launcher is None:
            environment |= slot.environment
        else:
            values = {"name": Path(work.name).name, "log": str(log.absolute()), "slot": str(slot.number)}
            command = self.launcher(command, values)
        with log.open("a") as output:
            # In a session of its own, so that Ctrl-C reaches only this process, which forwards it once.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,  # ssh, for one, would take what is typed or piped for this process
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
            handed_on = False
            while True:
                try:
                    code = process.wait(POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    if self.stop() and not handed_on:
                        self._interrupt(process)
                        handed_on = True
        if handed_on and self.launcher is not None:
            _wait_for_group(process.pid)
        if handed_on and code:  # a process interrupted while starting may exit with any code
            return False
        if code == INTERRUPTED:
            return False
        if code:
            raise RunError(f"{work.name} failed: {_last_line(log, code)} (see {log})", log)
        return True

    def _interrupt(self, process: subprocess.Popen[bytes]) -> None:
        if self.launcher is None:
            process.send_signal(signal.SIGINT)
        else:  # SIGTERM to the whole session: srun passes it on, but only counts the first SIGINT
            os.killpg(process.pid, signal.SIGTERM)


def _wait_for_group(leader: int) -> None:
    """Wait until the processes that a launcher started here have ended too: a shell ends before its command does."""
    deadline = time.monotonic() + SAVING_SECONDS
    while time.monotonic() < deadline:
        try:
            os.killpg(leader, 0)
        except OSError:  # there are none left
            return
        time.sleep(POLL_SECONDS)


def _error_of(work: Named, error: Exception) -> RunError:
    """Return an error as that of a run."""
    return error if isinstance(error, RunError) else RunError(f"{work.name} failed: {error}")


def _last_line(log: Path, code: int) -> str:
    return (_lines(log) or [f"it printed nothing, exit status {code}"])[-1]


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").strip().splitlines()
