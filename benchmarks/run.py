"""The ``run`` command: it runs workloads, and writes the results after each, so that a later failure loses nothing."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import torch

from . import catalogue, cuda, driver, machine, rows
from .precision import products_of
from .rows import Row
from .table import table
from .work import Work, WrongResultError

ROUNDS = {"cpu": 60, "cuda": 100}
QUICK_ROUNDS = 10
BUSY = 0.5
"""The load per core above which other processes affect the measured times."""


def run(
    device: str,
    output: Path | None,
    rounds: int | None,
    only: str,
    quick: bool,
    append: bool = False,
    seconds: float | None = None,
) -> int:
    """Run workloads and return the exit status.

    It is nonzero if a provider's result was wrong, a workload could not be created, or nothing was measured. ``append``
    keeps the existing rows of the output; no further workload starts after ``seconds``.
    """
    measure = cuda.measure if device == "cuda" else driver.measure
    chosen = catalogue.gpu(quick) if device == "cuda" else catalogue.cpu(quick)
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS[device])
    processor = str(machine.conditions(torch.device(device))["device"])
    output = output or Path("benchmarks/results") / f"{slug(processor)}.csv"
    load = os.getloadavg()[0]
    if load > BUSY * (os.cpu_count() or 1):
        print(f"warning: the machine is busy (load {load:.1f}), so times will be too long", file=sys.stderr)
    earlier = rows.read(output) if append and output.exists() else []
    found: list[Row] = []
    status = 0
    started = time.monotonic()
    for name in (name for name in chosen if re.search(only, name)):
        if seconds is not None and time.monotonic() - started > seconds:
            print(f"not started, since {seconds:g} s have passed: {name}", file=sys.stderr, flush=True)
            continue
        print(f"{time.monotonic() - started:5.1f} s: {name}", file=sys.stderr, flush=True)
        try:
            works = chosen[name]()
        except RuntimeError as error:  # creating a workload runs our op
            print(f"error: {name}: {cuda.one_line(error)}", file=sys.stderr)
            status = 1
            continue
        for work in works:
            try:
                found += measure(work, rounds)
            except WrongResultError as error:
                found += error.rows
                print(f"error: {error}", file=sys.stderr)
                status = 1
            rows.write([*earlier, *found], output)
    if not found:
        print(f"error: nothing was measured: --only {only!r} must match one of {', '.join(chosen)}", file=sys.stderr)
        return 1
    print(table([*earlier, *found]))
    print(f"\nwritten to {output}")
    return status


def compile_all(only: str) -> None:
    """Run every provider of a GPU's workloads once, so that what its compiler makes is in the caches on disk."""
    for name, make in catalogue.gpu().items():
        if re.search(only, name):
            try:
                for work in make():
                    compile_one(work)
            except Exception as error:  # it is reported where it is timed
                print(f"not compiled: {name}: {cuda.one_line(error)}", flush=True)


def compile_one(work: Work) -> None:
    with cuda.on_its_stream(work), products_of(work.dtype):
        for provider in (provider for provider in work.providers if provider.role != "bound"):
            started = time.monotonic()
            try:
                provider.prepare().run()
            except Exception as error:
                print(f"not compiled: {provider.name} in {work}: {cuda.one_line(error)}", flush=True)
            else:
                print(f"{time.monotonic() - started:5.1f} s: {provider.name} in {work}", flush=True)
    torch._dynamo.reset()


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
