"""The next command of a run's training, read from its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import checks
from ...files import read_json
from ..config import TrainConfig
from ..protocols import passes
from ..setting_text import flags
from ..train.checkpoint import CheckpointError, position_of
from ..train.metrics import read_metrics
from ..train.runs import Run, sole_trainer
from ..train.selection import is_over

Settings = Mapping[str, Any]
"""Settings of a :class:`iwae_fast.experiments.config.TrainConfig` that differ from its preset."""

FREE = ("device", "backend", "capture", "compile", "chunk_size")
"""Settings that may differ without making it a different run."""


DAMAGED = (ValueError, KeyError, OSError, CheckpointError)
"""Errors of reading the folder of a run whose files are damaged, or are those of another run."""


def config_of(settings: Settings) -> TrainConfig:
    """Return the config that ``iwae-fast train`` makes of settings."""
    if "stages" in settings and "epochs" not in settings:
        settings = {**settings, "epochs": passes(checks.positive("stages", settings["stages"]))}
    return TrainConfig.preset(**settings)


def free(settings: Settings) -> list[str]:
    """Return the options that may differ from the settings of an existing run."""
    return flags({name: value for name, value in settings.items() if name in FREE})


def next_training(
    files: Run, settings: Settings, closing: Sequence[str] = (), start_from: Path | None = None
) -> list[str] | None:
    """Return the arguments of the command that begins or resumes training; None if the last epoch is reached.

    Args:
        files: the run, whose folder may not exist yet.
        settings: the settings of the run.
        closing: further options.
        start_from: folder of the run from which this one continues.
    """
    if files.checkpoint.exists():
        if is_trained(files):
            return None
        return ["train", "--resume", str(files.folder), *free(settings), *closing]
    if files.folder.is_dir():
        with sole_trainer(files.folder):  # another process may be about to write the first checkpoint
            # Training cannot resume without a checkpoint, so it starts anew.
            for leftover in (files.config, files.metrics):
                leftover.unlink(missing_ok=True)
    start = [] if start_from is None else ["--start-from", str(start_from)]
    return ["train", *start, *flags(settings), "--output", str(files.folder), *closing]


def is_trained(files: Run) -> bool:
    """Return whether the checkpoint of a run is that of the last epoch of its settings, or of an early stop."""
    rows, config = read_metrics(files.metrics), read_json(files.config)
    step, best = position_of(files.checkpoint)
    # A kill may come between a row of the metrics and its checkpoint.
    if not rows or rows[-1].step > step:
        return False
    return rows[-1].epoch == config["epochs"] or is_over(best, rows[-1].epoch, config.get("patience"))


def check_settings(files: Run, wanted: TrainConfig, free: Sequence[str] = FREE) -> None:
    """Raise ValueError if the folder of a run holds one with other settings, those in ``free`` excepted."""
    expected = wanted.to_json()
    found = TrainConfig.from_json(read_json(files.config)).to_json()
    differing = [name for name in expected if name not in free and expected[name] != found[name]]
    if differing:
        raise ValueError(f"{files.folder} holds another run ({', '.join(differing)} differ): move that folder away")
