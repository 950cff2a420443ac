"""Loading of the data of a run, which may have moved and are recognized by their fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ...data import DataError, ImageData, is_file
from ..config import TrainConfig
from .checkpoint import Checkpoint, CheckpointError


def stored_name(dataset: str) -> str:
    """Return the name of the data set to store in a run: for a file or a folder, its absolute path."""
    return stored_path(dataset) if is_file(dataset) else dataset


def stored_path(path: str) -> str:
    """Return the absolute path of a file or a folder."""
    return str(Path(path).expanduser().absolute())


def difference(checkpoint: Checkpoint, data: ImageData) -> str | None:
    """Return the name of the part that differs from the run's data; None if the data are the run's own."""
    if checkpoint.data != data.train_fingerprint:
        return "training"
    # Checkpoints of earlier versions do not have a fingerprint of the test observations.
    if checkpoint.test_data not in (None, data.test_fingerprint):
        return "test"
    return None


def check_own(checkpoint: Checkpoint, data: ImageData, source: Path) -> None:
    """Raise CheckpointError unless the data are those of the run whose checkpoint was read from ``source``."""
    part = difference(checkpoint, data)
    if part is not None:
        raise CheckpointError(
            f"{source} was written with {part} data that differ from {data.name}: give the file with the run's data "
            "by --data"
        )


def load_own_data(
    checkpoint: Checkpoint,
    source: Path,
    dataset: str | None = None,
    load: Callable[[TrainConfig, str], ImageData] = TrainConfig.load_data,
) -> ImageData:
    """Load the data of a run, from the file ``dataset`` if given; raises CheckpointError if they are not the run's."""
    name = checkpoint.config.dataset if dataset is None else stored_name(dataset)
    if is_file(name) and not Path(name).exists():
        raise DataError(f"{name} does not exist: give the file with the run's data by --data")
    data = load(checkpoint.config, name)
    check_own(checkpoint, data, source)
    return data


class Found(NamedTuple):
    """Data for an evaluation of a run."""

    data: ImageData
    is_own: bool
    """True if the run was trained with these data."""


def find_data(checkpoint: Checkpoint, source: Path, dataset: str | None = None, **given: Any) -> Found:
    """Load the data of a run, or other data if ``dataset`` names them.

    Args:
        checkpoint: checkpoint of the run.
        source: file of the checkpoint, for messages.
        dataset: a data set, or a file with either the run's data, if they have moved, or other data. None for the
            run's own data set; raises CheckpointError if its content has changed.
        given: fields of :class:`iwae_fast.data.FileOptions` for other data. Those that are not given are the run's as
            far as the data have the arrays or columns that they name.

    If other data are a single array, all of its rows are the test part.
    """
    config = checkpoint.config
    given = {option: value for option, value in given.items() if value is not None}
    if dataset is None:
        if given:
            raise ValueError(f"{', '.join(given)} can only be given for other data, together with a file")
        return Found(load_own_data(checkpoint, source), True)
    name = stored_name(dataset)
    if not given:
        try:
            data = config.load_data(name)
        except DataError:
            pass  # it may lack only a training part; any other error is raised again below
        else:
            if difference(checkpoint, data) is None:
                return Found(data, True)
    options = replace(config.file_options(), test=None, unsplit=True, optional=True)
    if any(option in given for option in ("array", "labels")):
        options = replace(options, split=None, array=None, labels=None, optional=False)
    return Found(config.load_data(name, replace(options, **given)), False)
