"""The data of a run: found again, perhaps elsewhere, and known for what they are by their fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ...data import FILES, DataError, ImageData
from .checkpoint import Checkpoint, CheckpointError


def stored_name(dataset: str) -> str:
    """The name under which a run keeps its data set: of a file, the absolute path."""
    return str(Path(dataset).expanduser().absolute()) if dataset.endswith(FILES) else dataset


def difference(checkpoint: Checkpoint, data: ImageData) -> str | None:
    """Say which part of the data is not what the run was trained with; None where they are the run's own."""
    if checkpoint.data != data.train_fingerprint:
        return "training"
    # The checkpoints of earlier versions do not know the test observations.
    if checkpoint.test_data not in (None, data.test_fingerprint):
        return "test"
    return None


def check_own(checkpoint: Checkpoint, data: ImageData, source: Path) -> None:
    """Raise CheckpointError unless the data are those of the run whose checkpoint comes from ``source``."""
    part = difference(checkpoint, data)
    if part is not None:
        raise CheckpointError(
            f"{source} is of other {part} data than {data.name} has now: name the file that has the run's data with "
            "--data"
        )


def load_own_data(checkpoint: Checkpoint, source: Path, dataset: str | None = None) -> ImageData:
    """Load the data of a run, from another file if ``dataset`` names one; CheckpointError where they are others."""
    name = checkpoint.config.dataset if dataset is None else stored_name(dataset)
    if name.endswith(FILES) and not Path(name).exists():
        raise DataError(f"{name} does not exist: name the file that has the run's data with --data")
    data = checkpoint.config.load_data(name)
    check_own(checkpoint, data, source)
    return data


class Found(NamedTuple):
    """Data that a run is to be evaluated on."""

    data: ImageData
    is_own: bool
    """Whether the run was trained with them."""


def find_data(checkpoint: Checkpoint, source: Path, dataset: str | None = None) -> Found:
    """Load the data of a run, or others if ``dataset`` names others.

    Args:
        checkpoint: the run's.
        source: the file of the checkpoint, for messages.
        dataset: a file, which has the run's data if they moved there, or others; or a data set. None for the run's own
            place of data: CheckpointError where other data are there now.

    Of other data in a single array all rows are the test part.
    """
    if dataset is None:
        return Found(load_own_data(checkpoint, source), True)
    name = stored_name(dataset)
    try:
        data = checkpoint.config.load_data(name)
    except DataError:
        pass  # it need not have a training part: what else is wrong is found again
    else:
        if difference(checkpoint, data) is None:
            return Found(data, True)
    return Found(checkpoint.config.load_data(name, unsplit=True), False)
