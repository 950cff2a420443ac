"""``python -m benchmarks [--device cuda] [--output FILE.csv] [--rounds N]``: all works, their table, CSV and JSON."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from . import bernoulli_iwae_loss, bernoulli_log_prob, copy, gaussian_log_prob, log_mean_exp, sample_gaussian
from .harness import Row, Work, host_clock, measure, row, table, write

Works = Callable[[], list[Work]]


def cpu_works(device: torch.device) -> list[Works]:
    """The papers' sizes: batches of 20, and 1, 5 and 50 samples."""
    return [
        *(partial(bernoulli_iwae_loss.works, device, k, 20) for k in (50, 5, 1)),
        partial(bernoulli_log_prob.works, device, 50, 20),
        partial(gaussian_log_prob.works, device, 50, 20),
        partial(log_mean_exp.works, device, 50, 20),
        partial(sample_gaussian.works, device, 50, 20),
    ]


def gpu_works(device: torch.device) -> list[Works]:
    """Sizes several times the second-level cache, where memory sets the pace, and the papers' batch of 20."""
    return [
        partial(copy.works, device, 2**30),
        partial(bernoulli_iwae_loss.works, device, 50, 1024),
        partial(bernoulli_iwae_loss.works, device, 50, 20),
        partial(bernoulli_log_prob.works, device, 50, 2048),
        partial(bernoulli_log_prob.works, device, 50, 2048, dtype=torch.bfloat16),
        partial(gaussian_log_prob.works, device, 50, 2048),
        partial(log_mean_exp.works, device, 50, 2**20),
        partial(sample_gaussian.works, device, 50, 1024),
    ]


def run(works: Works, rounds: int) -> list[Row]:
    """Time some works, and give their memory back. Small ones on a GPU are timed with Python's part too."""
    rows = []
    for work in works():
        rows += measure(work, rounds)
        if work.device.type == "cuda" and work.bytes < 2**24:
            clocks = {name: host_clock(provider) for name, provider in work.providers.items()}
            seconds = {name: [clock() for _ in range(rounds)] for name, clock in clocks.items()}
            rows += [row(work, name, times, metric="seconds with Python") for name, times in seconds.items()]
    torch._dynamo.reset()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--output", type=Path, help="a .csv; the .json goes beside it")
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    rows: list[Row] = []
    for works in (gpu_works if device.type == "cuda" else cpu_works)(device):
        rows += run(works, arguments.rounds)
        output = arguments.output or Path("benchmarks/results") / f"{slug(rows[0].device)}.csv"
        write(rows, output)  # after each, so that what was measured survives what follows
    print(table(rows))
    print(f"\nwritten to {output}")


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    main()
