"""Timing of providers side by side: alternating in one run, medians with quantiles, nothing wrong is timed.

A *work* gives its providers, each a function without arguments that does the whole of it and returns tensors. Before
timing, what each returns is compared with the reference in float64. The machines this runs on are shared and noisy:
the ratio of two medians of one run holds, an absolute time does not.

On the CPU a call is timed by the clock. On a GPU its kernels are captured in a CUDA graph, whose replays are timed by
device events: the time of the device's work, without Python's.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import iwae_fast as iw

Provider = Callable[[], Sequence[Tensor]]
Clock = Callable[[], float]
"""Does the work once and returns the seconds that it took."""

WARMUP_ROUNDS = 5


@dataclass(frozen=True)
class Work:
    """Something to be done, and who can do it."""

    op: str
    mode: str
    """"forward" or "forward+backward"."""
    shape: str
    dtype: str
    device: torch.device
    providers: dict[str, Provider]
    truth: Sequence[Tensor]
    """What the reference returns in float64."""
    bytes: int
    """What must cross the memory at least: each input read once a pass, and each result written."""
    tolerance: float = 1e-4
    """Largest error against the truth, relative to its largest entry."""
    incomparable: frozenset[str] = frozenset()
    """Providers whose results are right but others: they draw noise of their own."""


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
    bytes: int
    device: str
    threads: int
    load: float
    torch: str
    triton: str
    iwae_fast: str
    python: str
    isa: str


def check(work: Work) -> None:
    """Refuse to time a provider whose result disagrees with the reference."""
    for name, provider in work.providers.items():
        if name in work.incomparable:
            continue
        for result, truth in zip(provider(), work.truth, strict=True):
            error = (result.double() - truth).abs().max() / truth.abs().max()
            if not error <= work.tolerance:
                raise RuntimeError(f"{name} is wrong by {error:.1e} (relative) in {work.op}: not timed")


def measure(work: Work, rounds: int = 200) -> list[Row]:
    """Time all providers in turn, ``rounds`` times."""
    check(work)
    clock_of: Callable[[Provider], Clock] = DeviceClock if work.device.type == "cuda" else host_clock
    clocks = {name: clock_of(provider) for name, provider in work.providers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in clocks}
    for round_index in range(rounds + WARMUP_ROUNDS):
        for name, clock in clocks.items():
            elapsed = clock()
            if round_index >= WARMUP_ROUNDS:
                seconds[name].append(elapsed)
    return [row(work, name, times) for name, times in seconds.items()]


def host_clock(provider: Provider) -> Clock:
    """A call's seconds by the clock; on a GPU until its kernels are done."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None

    def clock() -> float:
        wait()
        start = time.perf_counter()
        provider()
        wait()
        return time.perf_counter() - start

    return clock


class DeviceClock:
    """The seconds of a call's kernels, replayed from a CUDA graph."""

    def __init__(self, provider: Provider) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                provider()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.results = provider()  # kept, since the graph writes to their memory
        self.start, self.stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def __call__(self) -> float:
        self.start.record()
        self.graph.replay()
        self.stop.record()
        self.stop.synchronize()
        return self.start.elapsed_time(self.stop) / 1e3


def row(work: Work, provider: str, seconds: Sequence[float], metric: str = "seconds") -> Row:
    low, median, high = np.quantile(np.array(seconds), [0.1, 0.5, 0.9])
    backends = iw.backends.info()["backends"]
    return Row(
        op=work.op,
        provider=provider,
        mode=work.mode,
        shape=work.shape,
        dtype=work.dtype,
        metric=metric,
        median=float(median),
        quantile_10=float(low),
        quantile_90=float(high),
        rounds=len(seconds),
        bytes=work.bytes,
        device=torch.cuda.get_device_name(work.device) if work.device.type == "cuda" else processor(),
        threads=torch.get_num_threads(),
        load=os.getloadavg()[0],
        torch=torch.__version__,
        triton=backends["triton"].get("version", ""),
        iwae_fast=iw.__version__,
        python=platform.python_version(),
        isa=backends["cpu"].get("isa", ""),
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
    """Results as CSV, one row a provider and work, and the same as JSON beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    path.with_suffix(".json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Markdown: each provider's median, its quantiles, how many times longer than our best, and its bandwidth.

    With a copy among the rows, bandwidth is also told as a part of the copy's.
    """
    copy = next((r.bytes / r.median for r in rows if r.op == "copy"), None)
    lines = [
        "| op | shape | dtype | mode | provider | median ms | 10% - 90% | times ours | GB/s |"
        + (" of copy |" if copy else ""),
        "| --- | --- | --- | --- | --- | ---: | ---: | ---: | ---: |" + (" ---: |" if copy else ""),
    ]
    ours: dict[tuple[str, ...], float] = {}
    for r in rows:
        if r.provider.startswith("iwae_fast") and not r.provider.endswith("reference"):
            ours[_work(r)] = min(r.median, ours.get(_work(r), r.median))
    for r in rows:
        ratio = f"{r.median / ours[_work(r)]:.2f}" if _work(r) in ours else ""
        bandwidth = r.bytes / r.median
        lines.append(
            f"| {r.op} | {r.shape} | {r.dtype} | {r.mode} | {r.provider} | {1e3 * r.median:.3f} "
            f"| {1e3 * r.quantile_10:.3f} - {1e3 * r.quantile_90:.3f} | {ratio} | {bandwidth / 1e9:.0f} |"
            + (f" {bandwidth / copy:.0%} |" if copy else "")
        )
    return "\n".join(lines)


def _work(row: Row) -> tuple[str, ...]:
    return row.op, row.shape, row.dtype, row.mode, row.metric
