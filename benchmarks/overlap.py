"""The time of training steps of many models side by side on an H100, predicted without one.

A launch with fewer blocks than multiprocessors leaves the others to the launches of other models. The blocks of each
launch of a step come from ``results/step-launches.csv``, which ``tests/support/step_launches.py`` makes.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .kernel_model import COPY, MULTIPROCESSORS, NODE
from .many_models import MODELS

TABLE = Path(__file__).parent / "results" / "step-launches.csv"
COLUMNS = ("kernel", "blocks", "bytes")

WAIT = 1.5e-6
"""Seconds that a launch waits for its first loads and last stores: an assumption, between 1 and 2 us."""

CACHED = 5.5e12
"""Bytes per second that all multiprocessors together read from the second-level cache: an assumption."""

RESIDENT = 2
"""Blocks that a multiprocessor has room for at least: a dense layer's take half of its registers."""


class StepLaunch(NamedTuple):
    """A launch of a training step."""

    kernel: str
    blocks: int
    bytes: int
    """The bytes of its tensors."""

    def share(self, resident: int) -> float:
        """Return the part of the GPU that the launch occupies if each multiprocessor has room for so many blocks."""
        return min(1.0, self.blocks / (MULTIPROCESSORS * resident))

    @property
    def seconds(self) -> float:
        """The time of the launch alone, with its node in a graph."""
        return NODE + WAIT + self.bytes / (CACHED * self.share(1))


class Overlap(NamedTuple):
    """Predicted seconds of a step of each of many models."""

    in_a_row: float
    least: float
    """Side by side, if each multiprocessor has as many blocks as it has room for, which do not slow each other down."""
    most: float
    """Side by side, if each multiprocessor has one block at a time."""


def read(path: Path = TABLE) -> list[StepLaunch]:
    with path.open(newline="") as file:
        return [StepLaunch(line["kernel"], int(line["blocks"]), int(line["bytes"])) for line in csv.DictReader(file)]


def overlap(launches: Sequence[StepLaunch], models: int = MODELS) -> Overlap:
    """Predict the times of models whose step has these launches.

    Side by side a step takes as long as the launches occupy the GPU, but no less than the launches of one model in a
    row, and than the bytes of all models at the bandwidth of a copy, since together they exceed the cache.
    """
    alone = sum(launch.seconds for launch in launches)
    floor = max(alone, models * sum(launch.bytes for launch in launches) / COPY)

    def side_by_side(resident: int) -> float:
        return max(floor, models * sum(launch.seconds * launch.share(resident) for launch in launches))

    return Overlap(models * alone, side_by_side(RESIDENT), side_by_side(1))


def told(models: int = MODELS) -> str:
    """Return the prediction as a sentence."""
    found = overlap(read(), models)
    least, most = (round(100 * each / found.in_a_row) for each in (found.least, found.most))
    return (
        f"predicted, not measured: {models} models side by side take {least} to {most} % of the time of {models} in a "
        f"row ({1e3 * found.least:.2f} to {1e3 * found.most:.2f} instead of {1e3 * found.in_a_row:.2f} ms per step)"
    )
