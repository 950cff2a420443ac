"""The runs of a table, each trained and evaluated by processes of the command line, side by side."""

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
COMMAND = ("-m", "iwae_fast.experiments.cli")
UNEVALUATED = ("--eval-k", "0")
FREE = ("device", "backend", "capture", "chunk_size", *CLOSING)
"""Settings that do not make another run of it."""


class RunError(ValueError):
    """A run failed; the message names it and its log."""


class Runner:
    """Trains and evaluates runs in folders of their names under ``folder``, as far as they are not.

    Args:
        folder: of all runs of a scale.
        scale: how they are evaluated.
        k: samples of their likelihoods.
        jobs: so many runs side by side, which share the cores, and the GPUs if there are several.
        options: further settings of all runs, such as the device.
        stop: asked all the time; once it says so the runs under way are interrupted, which saves them.
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
        """Bring every run to its end, one that others go on from before these; returns what failed.

        ``ended`` is told of each that is done. What ``stop`` keeps from its end is left for the next time.
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
                    break  # what is left goes on from a run that failed
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
        """Bring a run to its end; whether it came to it. RunError where it failed."""
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
        """Whether a run is trained and evaluated as the scale wants it. RunError where its folder has another run."""
        files = Run(self.folder / run.name)
        if not files.checkpoint.exists():
            return False
        self._check_settings(run, files)
        if not self.is_trained(files):
            return False
        return evaluation_of(files, self.scale, self.k) is not None

    @staticmethod
    def is_trained(files: Run) -> bool:
        """Whether the last epoch of its settings was reached."""
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
            raise RunError(f"{files.folder} holds another run ({', '.join(differing)} differ): move it away")

    def _trained(self, run: RunOfTable, slot: int) -> bool:
        files = Run(self.folder / run.name)
        if not files.checkpoint.exists():
            if files.folder.is_dir():
                with sole_trainer(files.folder):  # of which another process may be about to write the first one
                    # Nothing can go on from a folder without one, whatever stopped it.
                    for leftover in (files.config, files.metrics):
                        leftover.unlink(missing_ok=True)
            start = [] if run.after is None else ["--start-from", str(self.folder / run.after.name)]
            settings = {**run.settings, **self.options}
            where = ["--output", str(files.folder)]
            return self._call(run, slot, "train", *start, *flags(settings), *where, *UNEVALUATED)
        return self._call(run, slot, "train", "--resume", str(files.folder), *self._free(), *UNEVALUATED)

    def _free(self) -> list[str]:
        """Options of this time, whatever the run had before."""
        return flags({name: value for name, value in self.options.items() if name in FREE})

    def _evaluated(self, run: RunOfTable, slot: int) -> bool:
        observations = [] if self.scale.observations is None else ["--observations", str(self.scale.observations)]
        further = str(self.scale.further)
        wanted = ["--k", str(self.k), *observations]
        wanted += ["--train-observations", further, "--active-only-observations", further]
        return self._call(run, slot, "evaluate", str(self.folder / run.name), *wanted, *self._free())

    def _call(self, run: RunOfTable, slot: int, *arguments: str) -> bool:
        """A process of the command line, which its log tells of; False where it was interrupted."""
        if self.stop():
            return False
        log = self.folder / f"{run.name}.log"
        with log.open("a") as output:
            # In a session of its own: Ctrl-C comes to this process alone, which hands it on once.
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
        if code == INTERRUPTED or (code and handed_on):  # a process that was still beginning does not know how
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
    """Find the evaluation of a run that a table at this scale is made of; None where there is none."""
    for found in all_evaluations(files):
        content = found.content
        all_of_them = content.get("test_observations", 0)
        observations = min(scale.observations or all_of_them, all_of_them)
        if found.is_own and (content.get("k"), content.get("observations")) == (k, observations):
            return found
    return None


def flags(settings: Settings) -> list[str]:
    """Settings as options of ``iwae-fast train``."""
    found = []
    for name, value in settings.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        found += [f"--{name.replace('_', '-')}", text]
    return found


def _lineage(run: RunOfTable) -> list[RunOfTable]:
    return [run] if run.after is None else [*_lineage(run.after), run]


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
