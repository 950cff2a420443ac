"""Concurrent processes of the command line for runs that are not done, shared with other processes like this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import filelock

from ..train.runs import in_use
from .launcher import Launcher
from .slots import Slot, Slots
from .training import DAMAGED

POLL_SECONDS = 0.2
SETTLE_SECONDS = 60.0
"""The longest time until files that a launched command wrote on another machine are visible here."""
SAVING_SECONDS = 30.0
"""The longest time that an interrupted run takes to save itself."""
INTERRUPTED = 130
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


class Work(Protocol):
    """A run to finish, whose state is read from its folder."""

    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    def next_command(self) -> list[str] | None:
        """Return the arguments of the next command of ``iwae-fast``; None once the run is done.

        Raises one of DAMAGED if the folder cannot be continued.
        """


W = TypeVar("W", bound=Work)


class Runner(Generic[W]):
    """A runner of several works at once, whose logs are in ``folder``.

    Other runners, on this machine or on others with the same file system, may work on the same works: each is claimed
    by a lock while a runner is at it.

    Args:
        folder: folder of logs and claims.
        jobs: number of concurrent runs. Without a launcher they share the cores, and the GPUs if there are several.
        launcher: template by which commands are started; None to start them on this machine.
        stop: polled continually; once it returns True the current runs are interrupted, which saves them.
    """

    def __init__(
        self,
        folder: Path,
        jobs: int = 1,
        launcher: Launcher | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder = folder
        self.jobs = jobs
        self.launcher = launcher
        self.stop = stop
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
            under_way: dict[Future[bool], tuple[W, filelock.BaseFileLock]] = {}
            while True:
                while len(under_way) < self.jobs and not self.stop():
                    found = self._next(source, elsewhere)
                    if found is None:
                        break
                    under_way[pool.submit(self.run, found[0])] = found
                if not under_way:
                    if not elsewhere or self.stop():
                        return failures  # works that the source holds back continue from failed ones
                    time.sleep(POLL_SECONDS)
                for future in wait(under_way, POLL_SECONDS if elsewhere else None, FIRST_COMPLETED).done:
                    work, claim = under_way.pop(future)
                    claim.release()
                    try:
                        if future.result():
                            ended(work)
                        continue
                    except RunError as error:
                        failures.append(error)
                    except DAMAGED as error:  # of one run
                        failures.append(RunError(f"{work.name} failed: {error}"))
                    failed(failures[-1])

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

    def run(self, work: W) -> bool:
        """Finish a work and return True; return False if it was interrupted. Raises RunError if it failed."""
        earlier: list[str] | None = None
        with self.slots.one() as slot:
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

    def _log(self, work: W) -> Path:
        return self.folder / f"{work.name}.log"

    def _call(self, work: W, slot: Slot, *arguments: str) -> bool:
        """Run a process of the command line, with its output in a log; return False if it was interrupted."""
        log = self._log(work)
        command, environment = [sys.executable, *COMMAND, *arguments], dict(os.environ)
        if self.launcher is None:
            environment |= slot.environment
        else:
            values = {"name": work.name, "log": str(log.absolute()), "slot": str(slot.number)}
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
            last = (_lines(log) or [f"it printed nothing, exit status {code}"])[-1]
            raise RunError(f"{work.name} failed: {last} (see {log})", log)
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


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").strip().splitlines()
