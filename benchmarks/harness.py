"""Timing of providers side by side: alternating in one run, medians with quantiles, nothing wrong is timed.

A *work* gives its providers, each a function without arguments that does the whole of it and returns tensors. Before
timing, what each returns is compared with the reference in float64. The machines this runs on are shared and noisy:
the ratio of two medians of one run holds, an absolute time does not.
"""

from __future__ import annotations

import csv
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import iwae_fast as iw

Provider = Callable[[], Sequence[Tensor]]

WARMUP_ROUNDS = 5


@dataclass(frozen=True)
class Work:
    """Something to be done, and who can do it."""

    op: str
    mode: str
    """"forward" or "forward+backward"."""
    shape: str
    dtype: str
    providers: dict[str, Provider]
    truth: Sequence[Tensor]
    """What the reference returns in float64."""
    tolerance: float
    """Largest error against the truth, relative to its largest entry."""


@dataclass(frozen=True)
class Row:
    """One line of the results: the schema of the CSV."""

    op: str
    provider: str
    mode: str
    shape: str
    dtype: str
    metric: str
    median: float
    quantile_10: float
    quantile_90: float
    rounds: int
    device: str
    threads: int
    load: float
    torch: str
    iwae_fast: str
    python: str
    isa: str = field(default="")


def check(work: Work) -> None:
    """Refuse to time a provider whose result disagrees with the reference."""
    for name, provider in work.providers.items():
        for result, truth in zip(provider(), work.truth, strict=True):
            error = (result.double() - truth).abs().max() / truth.abs().max()
            if not error <= work.tolerance:
                raise RuntimeError(f"{name} is wrong by {error:.1e} (relative) in {work.op}: not timed")


def measure(work: Work, rounds: int = 200) -> list[Row]:
    """Time all providers in turn, ``rounds`` times."""
    check(work)
    seconds: dict[str, list[float]] = {name: [] for name in work.providers}
    for round_index in range(rounds + WARMUP_ROUNDS):
        for name, provider in work.providers.items():
            start = time.perf_counter()
            provider()
            elapsed = time.perf_counter() - start
            if round_index >= WARMUP_ROUNDS:
                seconds[name].append(elapsed)
    return [_row(work, name, np.array(times)) for name, times in seconds.items()]


def _row(work: Work, provider: str, seconds: np.ndarray) -> Row:
    low, median, high = np.quantile(seconds, [0.1, 0.5, 0.9])
    return Row(
        op=work.op,
        provider=provider,
        mode=work.mode,
        shape=work.shape,
        dtype=work.dtype,
        metric="seconds",
        median=float(median),
        quantile_10=float(low),
        quantile_90=float(high),
        rounds=len(seconds),
        device=processor(),
        threads=torch.get_num_threads(),
        load=os.getloadavg()[0],
        torch=torch.__version__,
        iwae_fast=iw.__version__,
        python=platform.python_version(),
        isa=iw.backends.info()["backends"]["cpu"].get("isa", ""),
    )


def processor() -> str:
    """The processor's own name for itself, with its family, where Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    entries = dict(line.split(":", 1) for line in lines if ":" in line)
    entries = {key.strip(): value.strip() for key, value in entries.items()}
    return f"{entries.get('model name', platform.machine())} family {entries.get('cpu family', '?')}"


def write(rows: Sequence[Row], path: Path) -> None:
    """Results as CSV, one row a provider and work."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def table(rows: Sequence[Row]) -> str:
    """Markdown: each provider's median, its quantiles, and how many times longer than ours it takes."""
    lines = [
        "| op | shape | mode | provider | median ms | 10% - 90% | times ours |",
        "| --- | --- | --- | --- | ---: | ---: | ---: |",
    ]
    ours = {(row.op, row.shape, row.mode): row.median for row in rows if row.provider == "iwae_fast cpu"}
    for row in rows:
        ratio = row.median / ours[row.op, row.shape, row.mode]
        lines.append(
            f"| {row.op} | {row.shape} | {row.mode} | {row.provider} | {1e3 * row.median:.3f} "
            f"| {1e3 * row.quantile_10:.3f} - {1e3 * row.quantile_90:.3f} | {ratio:.2f} |"
        )
    return "\n".join(lines)
