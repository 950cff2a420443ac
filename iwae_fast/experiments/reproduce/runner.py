"""Concurrent training and evaluation of the runs of a table by processes of the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import torch

from ...files import read_json
from ..config import CLOSING, TrainConfig
from ..evaluate.evaluations import Evaluation, all_evaluations
from ..train.runs import Run, sole_trainer
from .scales import Scale
from .tables import RunOfTable, Settings

POLL_SECONDS = 0.2
INTERRUPTED = 130
COMMAND = ("-m", "iwae_fast")
UNEVALUATED = ("--eval-k", "0")
FREE = ("device", "backend", "capture", "chunk_size", *CLOSING)
"""Settings that may differ without making it a different run."""


class RunError(ValueError):
    """A run failed; the message names it and its log."""


class Runner:
    """A runner that trains and evaluates the unfinished ones of given runs, in folders of their names under ``folder``.

    Args:
        folder: folder of all runs of a scale.
        scale: the scale, which determines the evaluation.
        k: samples per observation in the evaluation.
        jobs: number of concurrent runs, which share the cores, and the GPUs if there are several.
        options: further settings of all runs, such as the device.
        stop: polled continually; once it returns True the current runs are interrupted, which saves them.
    """

    def __init__(
        self,
        folder: Path,
        scale: Scale,
        k: int,
        jobs: int = 1,
        options: Settings | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder = folder
        self.scale = scale
        self.k = k
        self.jobs = jobs
        self.options = dict(options or {})
        self.stop = stop
        self.slots = list(range(jobs))
        self.lock = threading.Lock()

    def run_all(self, runs: Sequence[RunOfTable], ended: Callable[[RunOfTable], None]) -> list[RunError]:
        """Finish all runs, each after the run from which it continues; return the errors of failed runs.

        ``ended`` is called with each finished run. Runs that ``stop`` interrupts resume at the next call.
        """
        pending = list({ancestor.name: ancestor for run in runs for ancestor in _lineage(run)}.values())
        failures: list[RunError] = []
        done: set[str] = set()
        self.folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(self.jobs) as pool:
            under_way: dict[Future[bool], RunOfTable] = {}
            while pending or under_way:
                for run in [r for r in pending if r.after is None or r.after.name in done]:
                    pending.remove(run)
                    under_way[pool.submit(self.run, run)] = run
                if not under_way:
                    break  # the remaining runs continue from failed ones
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    run = under_way.pop(future)
                    try:
                        if future.result():
                            done.add(run.name)
                            ended(run)
                    except RunError as error:
                        failures.append(error)
                    except (ValueError, KeyError, OSError) as error:  # damaged files of one run
                        failures.append(RunError(f"{run.name} failed: {error!r}"))
        return failures

    def run(self, run: RunOfTable) -> bool:
        """Finish a run and return True; return False if it was interrupted. Raises RunError if it failed."""
        if self.is_done(run):
            return True
        with self.lock:
            slot = self.slots.pop(0)
        try:
            return self._trained(run, slot) and self._evaluated(run, slot)
        finally:
            with self.lock:
                self.slots.append(slot)

    def is_done(self, run: RunOfTable) -> bool:
        """Return whether a run is trained and evaluated at this scale; raises RunError if its folder has another."""
        files = Run(self.folder / run.name)
        if not files.checkpoint.exists():
            return False
        self._check_settings(run, files)
        if not self.is_trained(files):
            return False
        return evaluation_of(files, self.scale, self.k) is not None

    @staticmethod
    def is_trained(files: Run) -> bool:
        """Return whether a run has reached the last epoch of its settings."""
        rows = files.metrics.read_text().splitlines()
        epochs = read_json(files.config)["epochs"]
        return len(rows) > 1 and rows[-1].split(",")[0] == str(epochs)

    def _check_settings(self, run: RunOfTable, files: Run) -> None:
        if run.after is not None:
            return
        wanted = TrainConfig.preset(**run.settings, **self.options).to_json()
        found = TrainConfig.from_json(read_json(files.config)).to_json()
        differing = [name for name in wanted if name not in FREE and wanted[name] != found[name]]
        if differing:
            raise RunError(f"{files.folder} holds another run ({', '.join(differing)} differ): move that folder away")

    def _trained(self, run: RunOfTable, slot: int) -> bool:
        files = Run(self.folder / run.name)
        if not files.checkpoint.exists():
            if files.folder.is_dir():
                with sole_trainer(files.folder):  # another process may be about to write the first checkpoint
                    # Training cannot resume without a checkpoint, so it starts anew.
                    for leftover in (files.config, files.metrics):
                        leftover.unlink(missing_ok=True)
            start = [] if run.after is None else ["--start-from", str(self.folder / run.after.name)]
            settings = {**run.settings, **self.options}
            where = ["--output", str(files.folder)]
            return self._call(run, slot, "train", *start, *flags(settings), *where, *UNEVALUATED)
        return self._call(run, slot, "train", "--resume", str(files.folder), *self._free(), *UNEVALUATED)

    def _free(self) -> list[str]:
        """Return the options that may differ from the settings of an existing run."""
        return flags({name: value for name, value in self.options.items() if name in FREE})

    def _evaluated(self, run: RunOfTable, slot: int) -> bool:
        observations = [] if self.scale.observations is None else ["--observations", str(self.scale.observations)]
        further = str(self.scale.further)
        wanted = ["--k", str(self.k), *observations]
        wanted += ["--train-observations", further, "--active-only-observations", further]
        return self._call(run, slot, "evaluate", str(self.folder / run.name), *wanted, *self._free())

    def _call(self, run: RunOfTable, slot: int, *arguments: str) -> bool:
        """Run a process of the command line, with its output in a log; return False if it was interrupted."""
        if self.stop():
            return False
        log = self.folder / f"{run.name}.log"
        with log.open("a") as output:
            # In a session of its own, so that Ctrl-C reaches only this process, which forwards it once.
            process = subprocess.Popen(
                [sys.executable, *COMMAND, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment(slot)},
                start_new_session=True,
            )
            handed_on = False
            while True:
                try:
                    code = process.wait(POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    if self.stop() and not handed_on:
                        process.send_signal(signal.SIGINT)
                        handed_on = True
        if code == INTERRUPTED or (code and handed_on):  # a process interrupted while starting may exit with any code
            return False
        if code:
            raise RunError(f"{run.name} failed: {_last_line(log)} (see {log})")
        return True

    def _environment(self, slot: int) -> dict[str, str]:
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        environment = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads)}
        if self.jobs > 1 and torch.cuda.device_count() > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
            environment["CUDA_VISIBLE_DEVICES"] = str(slot % torch.cuda.device_count())
        return environment


def evaluation_of(files: Run, scale: Scale, k: int) -> Evaluation | None:
    """Return the evaluation of a run for a table at this scale; None if there is none."""
    for found in all_evaluations(files):
        content = found.content
        all_of_them = content.get("test_observations", 0)
        observations = min(scale.observations or all_of_them, all_of_them)
        if found.is_own and (content.get("k"), content.get("observations")) == (k, observations):
            return found
    return None


def flags(settings: Settings) -> list[str]:
    """Return settings as options of ``iwae-fast train``."""
    found = []
    for name, value in settings.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        found += [f"--{name.replace('_', '-')}", text]
    return found


def _lineage(run: RunOfTable) -> list[RunOfTable]:
    return [run] if run.after is None else [*_lineage(run.after), run]


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
