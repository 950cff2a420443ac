"""The folder of a run: paths of its files, creation and opening of runs, locks, and loading of the trained model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import torch

from ... import checks
from ...files import read_json, remove_leftovers, replace_file, write_json
from ...models import LatentVariableModel
from ..config import TrainConfig, usable_device
from ..networks import build
from .checkpoint import Checkpoint, CheckpointError, load_checkpoint
from .metrics import start_metrics

TRAINING, EVALUATION = ".training.lock", ".evaluation.lock"
"""Names of the locks in the folder of a run."""

READS = 3
"""Attempts to read the last and the best checkpoint, both of which training may replace in between."""


@dataclass(frozen=True)
class Run:
    """The files of a run."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.json"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.csv"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def best(self) -> Path:
        """The checkpoint of the epoch with the highest validation bound, if the run keeps it."""
        return self.folder / "best.safetensors"

    @property
    def trackers(self) -> Path:
        """The identities of the run in experiment trackers, if it is logged to any."""
        return self.folder / "trackers.json"

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation.json"

    @property
    def per_observation(self) -> Path:
        return self.folder / "evaluation.npz"

    @property
    def evaluations(self) -> Path:
        """The folder of all evaluations; ``evaluation`` and ``per_observation`` are copies of the best one."""
        return self.folder / "evaluations"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def journal(self, step: int, k: int, observations: int, of: str = "evaluation") -> Path:
        """Return the path of the journal of a running or interrupted evaluation."""
        return self.folder / f"{of}-step{step}-k{k}-n{observations}.partial.npz"

    @property
    def loss_curve(self) -> Path:
        return self.folder / "loss-curve.png"

    @property
    def reconstructions(self) -> Path:
        return self.folder / "reconstructions.png"

    @property
    def samples(self) -> Path:
        return self.folder / "samples.png"


def default_folder(config: TrainConfig) -> Path:
    """Return ``runs/<dataset>-<bound>-k<k>-<local time>``; the data set is the name without suffix if it is a file."""
    dataset = Path(config.dataset).stem
    return Path("runs") / f"{dataset}-{config.bound}-k{config.k}-{time.strftime('%Y%m%d-%H%M%S')}"


def create_run(folder: Path, config: TrainConfig) -> Run:
    """Begin a run in a new or empty folder; raises FileExistsError if the folder is not empty."""
    check_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder)
    start_metrics(run.metrics)
    write_json(run.config, config.to_json())
    return run


def check_empty(folder: Path) -> None:
    """Raise FileExistsError unless a folder, in which a run is to begin, is new or empty."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is not a folder")
    # Hidden files are locks, and temporary files left by a crash.
    if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise FileExistsError(
            f"the folder {folder} is not empty: choose another one, or resume its run with --resume {folder}"
        )


def check_is_run(folder: Path) -> Run:
    """Return the run of a folder; raises FileNotFoundError if the folder does not hold a run."""
    run = Run(folder)
    if not run.config.is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a run: it does not have {run.config.name}")
    return run


@contextmanager
def sole_trainer(folder: Path) -> Iterator[None]:
    """Lock an existing folder for training; raises ValueError if another process is training in it.

    Code that writes the run's configuration, metrics or checkpoint must hold this lock, and read them while it does.
    """
    with _lock(folder / TRAINING, f"another process is training in {folder}"):
        run = Run(folder)
        states = (run.config, run.metrics, run.checkpoint, run.best, run.trackers)
        written = (*states, run.loss_curve, run.reconstructions)
        remove_leftovers(folder, *(path.name for path in written))
        yield


@contextmanager
def sole_evaluator(folder: Path, wait: bool = False) -> Iterator[None]:
    """Lock the run in a folder for evaluation.

    Code that writes evaluations or the report must hold this lock. If another process holds it, wait for it if
    ``wait``, else raise ValueError.
    """
    with _lock(folder / EVALUATION, f"another process is evaluating {folder}", -1 if wait else 0):
        run = Run(folder)
        remove_leftovers(folder, run.evaluation.name, run.per_observation.name, run.report.name, "*.partial*.npz")
        remove_leftovers(run.evaluations, "*")
        yield


def in_use(folder: Path) -> bool:
    """Return whether a process is training or evaluating the run in a folder, which need not exist."""
    for name in (TRAINING, EVALUATION):
        if (folder / name).exists():
            try:
                with filelock.FileLock(folder / name).acquire(timeout=0):
                    pass
            except filelock.Timeout:
                return True
    return False


@contextmanager
def _lock(path: Path, taken: str, timeout: float = 0) -> Iterator[None]:
    try:
        held = filelock.FileLock(path).acquire(timeout=timeout)
    except filelock.Timeout as error:
        raise ValueError(taken) from error
    with held:  # the operating system releases the lock when a process ends, even by a crash
        yield


def continue_elsewhere(earlier: Run, folder: Path, config: TrainConfig) -> Run:
    """Begin a run in a new or empty folder from the state of an earlier run, which stays unchanged."""
    run = create_run(folder, config)
    for name in ("metrics", "checkpoint", "best"):
        source: Path = getattr(earlier, name)
        if source.exists():
            replace_file(getattr(run, name), source.read_bytes())
    return run


def open_run(folder: Path) -> tuple[Run, Checkpoint]:
    """Return an earlier run and its last checkpoint, with the config of the folder, which must agree with it."""
    run = check_is_run(folder)
    content = read_json(run.config)
    try:
        config = TrainConfig.from_json(content)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{run.config}: {error}") from error
    checkpoint = load_checkpoint(run.checkpoint)
    differing = checkpoint.config.differences(config)
    if differing:
        raise CheckpointError(
            f"{run.checkpoint} belongs to a different run than {run.config}: {', '.join(differing)} differ"
        )
    return run, replace(checkpoint, config=config)


def open_trained(folder: Path, which: str | None = None) -> tuple[Run, Checkpoint]:
    """Return a run and the checkpoint of its trained model.

    Args:
        folder: folder of the run.
        which: "best" for the epoch with the highest validation bound, "last" for the last checkpoint. None for the best
            if the run keeps it (``keep_best`` and ``patience`` of its settings), else the last.

    Raises ValueError if the run does not have a best checkpoint, or CheckpointError if it is damaged.
    """
    for _ in range(READS):
        run, last = open_run(folder)
        chosen = which or ("best" if last.config.keeps_best and last.best is not None else "last")
        if checks.one_of("checkpoint", chosen, ("best", "last")) == "last":
            return run, last
        if last.best is None:
            raise ValueError(
                f"{folder} does not have a checkpoint of the best epoch: train with --keep-best or --patience"
            )
        # That of the last step is written to both files, the last one first: a crash may come between.
        wanted = last.best.step
        best = last if wanted == last.step else load_checkpoint(run.best)
        if best.step == wanted:
            return run, replace(best, config=last.config, last_step=last.step)
    raise CheckpointError(f"{run.best} must be the checkpoint of step {wanted}, got that of {best.step}")


def trained_model(checkpoint: Checkpoint, device: str | None = None, backend: str | None = None) -> LatentVariableModel:
    """Return the model of a checkpoint, on the run's device and backend unless others are given."""
    config = checkpoint.config
    with torch.random.fork_rng(devices=[]):  # initialization must not advance the global generator
        model = build(config, checkpoint.data_dim, backend=backend)
    copy_matching(model.state_dict(), checkpoint.model)
    return model.to(usable_device(device or config.device, backend or config.backend))


def copy_matching(targets: dict[str, Any], saved: dict[str, Any]) -> None:
    """Copy saved tensors into those of the same name; raises CheckpointError if names or shapes differ."""
    expected = {name: tuple(tensor.shape) for name, tensor in targets.items()}
    found = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    if expected != found:
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise CheckpointError(f"the checkpoint does not fit the model: {', '.join(differing)}")
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(saved[name])
