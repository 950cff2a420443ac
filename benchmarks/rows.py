"""The results: one row per workload and provider, as CSV and JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from . import machine
from .intervals import ratio_of_medians
from .work import BASELINE, COMPILED, COPIED, Provider, Work


@dataclass(frozen=True)
class Row:
    """One line of the results: the schema of the CSV."""

    op: str
    provider: str
    mode: str
    shape: str
    dtype: str
    metric: str
    """The unit of the values: "seconds", on a GPU also "seconds with Python", or "peak bytes"."""
    median: float
    quantile_10: float
    quantile_90: float
    rounds: int
    bytes: int
    """The bytes that must at least be read and written; 0 if unknown."""
    device: str
    threads: int
    load: float
    torch: str
    triton: str
    iwae_fast: str
    python: str
    isa: str
    role: str = ""
    """The role of the provider, see :data:`benchmarks.work.Role`."""
    version: str = ""
    """The version of the provider's package."""
    k: int | None = None
    ratio: float | None = None
    """For a rival, its median divided by that of our best provider."""
    ratio_low: float | None = None
    """The lower end of the ratio's 95 % bootstrap interval."""
    ratio_high: float | None = None
    """The upper end of that interval."""
    speedup: float | None = None
    """The median of torch eager divided by the provider's."""
    speedup_low: float | None = None
    speedup_high: float | None = None
    of_copy: float | None = None
    """The median of a copy that reads and writes as many bytes in all, measured beside it, over the provider's."""
    x_compile: float | None = None
    """The median of the fastest variant of torch.compile over the provider's."""
    note: str = ""
    """The settings that the provider chose itself."""

    @property
    def work(self) -> tuple[str, ...]:
        """The columns that identify a workload."""
        return self.op, self.mode, self.shape, self.dtype, self.metric


def make(
    work: Work, values: dict[Provider, list[float]], notes: dict[Provider, str] | None = None, metric: str | None = None
) -> list[Row]:
    """Create the rows of a workload from the values of each provider, one entry per round."""
    arrays = {provider: np.array(found) for provider, found in values.items()}
    ours = [provider for provider in arrays if provider.role == "ours"]
    best = min(ours, key=lambda provider: np.median(arrays[provider]), default=None)
    baseline = next((provider for provider in arrays if provider.name == BASELINE), None)
    metric = metric or work.metric
    medians = {provider.name: float(np.median(found)) for provider, found in arrays.items()}
    copied = medians.get(COPIED) if metric == "seconds" else None
    compiled = min((median for name, median in medians.items() if name.startswith(COMPILED)), default=None)
    rows = []
    for provider, found in arrays.items():
        low, median, high = np.quantile(found, (0.1, 0.5, 0.9))
        compared: dict[str, Any] = {}
        takes_part = provider.role != "bound" and metric != "peak bytes"
        if provider.role == "rival" and best is not None:
            compared |= _columns("ratio", found, arrays[best])
        if baseline is not None:
            compared |= _columns("speedup", arrays[baseline], found)
        rows.append(
            Row(
                op=work.op,
                provider=provider.name,
                mode=work.mode,
                shape=work.shape,
                dtype=work.dtype,
                metric=metric,
                median=float(median),
                quantile_10=float(low),
                quantile_90=float(high),
                rounds=len(found),
                bytes=work.bytes,
                role=provider.role,
                version=machine.version(provider.package),
                k=work.k,
                of_copy=None if copied is None else copied / float(median),
                x_compile=None if compiled is None or not takes_part else compiled / float(median),
                note=(notes or {}).get(provider, ""),
                **compared,
                **machine.conditions(work.device),
            )
        )
    return rows


def _columns(name: str, numerator: np.ndarray, denominator: np.ndarray) -> dict[str, float]:
    value, low, high = ratio_of_medians(numerator, denominator)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def write(rows: Sequence[Row], path: Path) -> None:
    """Write results as CSV, and as JSON next to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    path.with_suffix(".json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def read(path: Path) -> list[Row]:
    """Read the rows of a CSV; columns missing in older files are empty."""
    with path.open(newline="") as file:
        return [_row(line) for line in csv.DictReader(file)]


def _row(line: dict[str, str]) -> Row:
    converters: dict[str, Any] = {"str": str, "int": int, "float": float}
    values: dict[str, Any] = {}
    for f in fields(Row):
        kind, _, optional = str(f.type).partition(" | ")
        text = line.get(f.name, "")
        if text or kind == "str":
            values[f.name] = converters[kind](text)
        elif optional:
            values[f.name] = None
    return Row(**values)
