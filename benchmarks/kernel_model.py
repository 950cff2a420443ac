"""A model of how long a kernel takes on an H100, from bytes, instructions and occupancy.

A launch takes as long as the slowest of four: its bytes at the bandwidth of a copy, its instructions at the rate at
which the multiprocessors issue them, its special functions at theirs, and the turns of its resident warps, which wait
for memory and compute. A first wait for memory is added.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import NamedTuple

MULTIPROCESSORS = 132
SCHEDULERS = 4
"""Schedulers per multiprocessor, each of which issues at most one instruction per cycle (CUDA programming guide)."""

REGISTERS, SHARED_BYTES, WARPS, BLOCKS = 65536, 228 * 1024, 64, 32
"""The room of a multiprocessor for resident blocks (CUDA programming guide, compute capability 9.0)."""

CLOCK = 1.755e9
"""Cycles per second while a kernel runs: an assumption, below the 1.98 GHz that the data sheet's 67 TFLOP/s need."""

SPECIAL = 16
"""Special functions per cycle and multiprocessor (CUDA programming guide, throughput of arithmetic instructions)."""

COPY = 2.95e12
"""Bytes per second of a copy, read plus written: 2889 to 2980 GB/s were measured on an H100."""

LATENCY, CACHED_LATENCY = 700e-9, 300e-9
"""Seconds from a load to its data, from a busy memory and from the second-level cache: assumptions. Of the 600 to
700 ns that are usual for an H100's memory at load, the upper end fits the measurements at commit 34ce24d best."""

CACHE = 50e6
"""Bytes of the second-level cache. What is smaller is still there from the replay before."""

NODE = 0.9e-6
"""Seconds per node of a CUDA graph, measured on an H100 with an empty kernel."""

CLUSTER_SYNC = 0.5e-6
"""Seconds of a barrier of 8 blocks, measured on an H100."""

CYCLES = 4
"""Cycles from one instruction of a warp to its next one, as if each needed the result of the last: the latency of
arithmetic instructions since Volta."""

ISSUED = 0.8
"""The part of all issue slots that a kernel fills at most: fitted to the measurements at commit 34ce24d."""


class Kernel(NamedTuple):
    """One line of the table of launches."""

    backend: str
    work: tuple[str, str, str, str]
    """Op, mode, shape and dtype; empty for a CUDA kernel, which many calls use."""
    name: str
    blocks: int
    threads: int
    registers: int
    shared_bytes: int
    whole: dict[str, int]
    """Instructions, special functions, and bytes read and written, of a thread that makes one turn of its loop."""
    turn: dict[str, int]
    """Those of each further turn; all zero without a loop."""

    @property
    def resident(self) -> int:
        """The number of warps that a multiprocessor runs at the same time."""
        warps = self.threads // 32
        by_registers = REGISTERS // (32 * math.ceil(self.registers / 8) * 8 * warps)
        by_shared = SHARED_BYTES // max(self.shared_bytes, 1)
        return warps * max(1, min(by_registers, by_shared, WARPS // warps, BLOCKS))

    def elements(self, size: int) -> int:
        """Return how many elements a thread processes per turn, each of which reads ``size`` bytes."""
        return max(1, (self.turn["read"] or self.whole["read"]) // size)


class Launch(NamedTuple):
    """A kernel at work."""

    kernel: Kernel
    threads: int
    turns: int
    bytes: float
    """The bytes that cross the memory."""
    syncs: int = 0
    """Barriers of clusters in each turn."""


def seconds(launch: Launch) -> tuple[float, str]:
    """Return the time of a launch without its graph node, and what limits it."""
    kernel, warps = launch.kernel, launch.threads / 32
    further = launch.turns - 1
    instructions = kernel.whole["instructions"] + further * kernel.turn["instructions"]
    special = kernel.whole["special"] + further * kernel.turn["special"]
    resident = min(kernel.resident * MULTIPROCESSORS, max(1.0, warps))
    waits = kernel.whole["waits"] + further * kernel.turn["waits"]
    latency = LATENCY if launch.bytes > CACHE else CACHED_LATENCY
    waiting = waits * latency + launch.syncs * CLUSTER_SYNC + instructions * CYCLES / CLOCK
    limits = {
        "copy": launch.bytes / COPY,
        "issue": warps * instructions / (MULTIPROCESSORS * SCHEDULERS * CLOCK * ISSUED),
        "special": 32 * warps * special / (MULTIPROCESSORS * SPECIAL * CLOCK),
        "latency": warps / resident * waiting,
    }
    limit = max(limits, key=lambda name: limits[name])
    return latency + limits[limit], limit


def read_counts(path: Path) -> list[Kernel]:
    with path.open(newline="") as file:
        return [_kernel(line) for line in csv.DictReader(file)]


def _kernel(line: dict[str, str]) -> Kernel:
    whole, turn = (
        {name: int(line[f"{part}_{name}"]) for name in ("instructions", "special", "read", "written", "waits")}
        for part in ("whole", "turn")
    )
    numbers = {name: int(line[name] or 0) for name in ("blocks", "threads", "registers", "shared_bytes")}
    work = (line["op"], line["mode"], line["shape"], line["dtype"])
    return Kernel(line["backend"], work, line["kernel"], **numbers, whole=whole, turn=turn)
