"""Training metrics: running means on the device, and one row per epoch in ``metrics.csv``."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...files import replace_file
from ...objectives.record import StepRecord, concatenate


class Means(NamedTuple):
    """Means over the observations of the current epoch."""

    bound: float
    """Training bound in nats."""
    ess: float
    """Effective sample size, 1 to k."""
    max_weight: float
    """Largest normalized weight, 1/k to 1."""


def summed(records: Sequence[StepRecord]) -> Tensor:
    """Return the sums over the observations of some steps, in the order of :class:`Means`, in float64."""
    found = concatenate(records).diagnostics()
    return torch.stack((found.value, found.ess, found.max_weight)).sum(1, dtype=torch.float64)


class RunningMeans:
    """Sums over observations, in float64 on the device, so that adding a step does not synchronize."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(Means._fields), dtype=torch.float64, device=device)
        self.count = 0
        """Number of observations."""

    def add(self, sums: Tensor) -> None:
        """Add the sums of some steps. The caller updates :attr:`count`, which a replayed graph would not."""
        self.sums += sums

    def means(self) -> Means:
        """Return the current means; synchronizes with the device."""
        return Means(*(self.sums / self.count).tolist())

    def restore(self, sums: Tensor, count: int) -> None:
        """Continue from saved sums of ``count`` observations."""
        self.sums.copy_(sums)
        self.count = count

    def reset(self) -> None:
        """Discard everything accumulated."""
        self.sums.zero_()
        self.count = 0


@dataclass(frozen=True)
class EpochMetrics:
    """One row of ``metrics.csv``."""

    epoch: int
    """Number of the epoch, from 1."""
    step: int
    """Steps since the start of the run."""
    bound: float
    """Training bound in nats, mean over the epoch."""
    ess: float
    max_weight: float
    seconds: float
    """Training time since the start of the run, without interruptions."""
    steps_per_second: float
    """Mean over the epoch."""
    validation: float | None = None
    """IWAE bound of the validation set in nats with k samples, at the end of the epoch; None if there is none."""


COLUMNS = tuple(field.name for field in fields(EpochMetrics))


def start_metrics(path: Path) -> None:
    """Write a file with a header and no rows."""
    _write(path, [])


def append_metrics(path: Path, row: EpochMetrics) -> None:
    """Append a row and flush it to disk, so that a checkpoint written later never has more epochs than the file."""
    with path.open("a", newline="") as file:
        csv.writer(file).writerow(astuple(row))
        file.flush()
        os.fsync(file.fileno())


def read_metrics(path: Path) -> list[EpochMetrics]:
    """Read all complete rows; skip a last row cut off by a crash. Raises ValueError if this is not a metrics file."""
    with path.open(newline="", errors="replace") as file:
        content = file.read()
    rows = list(csv.reader(io.StringIO(content)))
    if not rows or tuple(rows[0]) != COLUMNS:
        raise ValueError(f"{path} is not a metrics file: its first line must be {','.join(COLUMNS)}")
    if not content.endswith("\n"):
        del rows[-1]
    try:
        return [_parse(row) for row in rows[1:]]
    except ValueError as error:
        raise ValueError(f"{path} has a damaged row: {error}") from error


def _parse(row: list[str]) -> EpochMetrics:
    if len(row) != len(COLUMNS):
        raise ValueError(f"expected {len(COLUMNS)} columns, got {len(row)}")
    epoch, step, *numbers, validation = row
    bound, ess, max_weight, seconds, rate = (float(number) for number in numbers)
    held_out = float(validation) if validation else None
    return EpochMetrics(int(epoch), int(step), bound, ess, max_weight, seconds, rate, held_out)


def drop_metrics_after(path: Path, epoch: int) -> None:
    """Drop the rows after ``epoch``, which training writes again when it resumes from an earlier checkpoint."""
    _write(path, [row for row in read_metrics(path) if row.epoch <= epoch])


def _write(path: Path, rows: list[EpochMetrics]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(astuple(row) for row in rows)
    replace_file(path, text.getvalue().encode())
