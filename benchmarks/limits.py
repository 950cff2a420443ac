"""``python -m benchmarks.limits``: C++ kernels against their roofline on this machine.

A kernel takes at least as long as its arithmetic on cached data, divided among the threads, and at least as long as a
copy of the same number of bytes. Both limits are measured in the same run as the kernel, alternately:

- arithmetic: one thread on a few rows that stay in its cache. The difference in time between more and fewer rows, which
  excludes the overhead of a call, is scaled to all rows and divided by the number of threads;
- memory: torch's copy of half as many bytes, each of which is read and written.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch

from iwae_fast.backends.cpu import CPUBackend
from iwae_fast.backends.heap import keep_large_blocks

from . import machine
from .run import slug

FEW, MORE, OBSERVATIONS = 16, 20, 4
"""The two numbers of samples, and the number of observations: the rows stay in the L2 cache."""

Kernel = Callable[[], object]


@dataclass(frozen=True)
class Limit:
    """The limits of one kernel; times are medians in seconds."""

    kernel: str
    shape: str
    seconds: float
    arithmetic: float
    memory: float
    bytes: int
    rounds: int
    device: str
    threads: int
    torch: str
    isa: str

    @property
    def bound(self) -> str:
        return "arithmetic" if self.arithmetic > self.memory else "memory"

    @property
    def share(self) -> float:
        """The limiting time as a fraction of the kernel's time."""
        return max(self.arithmetic, self.memory) / self.seconds


def kernels(k: int, batch: int, features: int) -> dict[str, tuple[Kernel, int]]:
    """Return each kernel with its arguments bound, and the number of bytes that it reads and writes."""
    cpu = CPUBackend()
    wide, rows = (k, batch, features), (k, batch)
    x, logits, log_std = torch.bernoulli(torch.full(wide[1:], 0.3)), torch.randn(wide), 0.1 * torch.randn(wide)
    log_ratio, grad = torch.randn(rows), torch.randn(rows)
    loss, weights = cpu.iwae_loss("bernoulli", (x, logits), log_ratio, None, "mean")
    mean, spread, seed = torch.randn(wide[1:]), 0.1 * torch.randn(wide[1:]), torch.tensor(1)
    hidden, gradient = torch.randn(k * batch, features), torch.randn(k * batch, features)
    out, sums = torch.empty_like(hidden), torch.empty(features)
    array, small = 4 * k * batch * features, 4 * batch * features

    def tanh() -> None:
        cpu.kernels.tanh_layer(False, *hidden.shape, hidden.data_ptr(), 0, torch.get_num_threads())

    def tanh_backward() -> None:
        pointers = (t.data_ptr() for t in (hidden, gradient, out, sums))
        cpu.kernels.tanh_layer_backward(False, *hidden.shape, *pointers, torch.get_num_threads())

    return {
        "bernoulli_log_prob": (lambda: cpu.density("bernoulli", (x, logits), None), array + small),
        "bernoulli_log_prob backward": (
            lambda: cpu.density_backward("bernoulli", grad, (x, logits), None, [False, True]),
            2 * array + small,
        ),
        "bernoulli_iwae_loss, gradients at once": (
            lambda: cpu.iwae_loss_and_gradients("bernoulli", (x, logits), log_ratio, None, "mean", [False, True]),
            2 * array + small,
        ),
        "bernoulli_iwae_loss backward": (
            lambda: cpu.iwae_loss_backward("bernoulli", loss, weights, (x, logits), None, "mean", [False, True]),
            2 * array + small,
        ),
        "gaussian_log_prob": (lambda: cpu.density("gaussian", (x, logits, log_std), None), 2 * array + small),
        "gaussian_log_prob backward": (
            lambda: cpu.density_backward("gaussian", grad, (x, logits, log_std), None, [False, True, True]),
            4 * array + small,
        ),
        "sample_gaussian": (
            lambda: cpu.sample_gaussian(mean, spread, seed, None, k, 0, 0, 0),
            array + 2 * small,
        ),
        "sample_gaussian backward": (
            lambda: cpu.sample_gaussian_backward(logits, grad, mean, spread, seed, None, k, 0, 0, 0, False),
            array + 4 * small,
        ),
        "tanh and bias": (tanh, 2 * array),
        "tanh and bias backward": (tanh_backward, 3 * array),
    }


def measure(shapes: dict[str, tuple[int, int, int]], rounds: int) -> list[Limit]:
    """Measure every kernel at the first shape whose key is a prefix of its name."""
    conditions = machine.conditions(torch.device("cpu"))
    keep_large_blocks()
    found = []
    for name in kernels(1, 1, 1):
        shape = next(shape for prefix, shape in shapes.items() if name.startswith(prefix))
        whole, size = kernels(*shape)[name]
        source = torch.randn(size // 8)
        few, more = (_on_one_thread(kernels(k, OBSERVATIONS, shape[2])[name][0]) for k in (FEW, MORE))
        target = torch.empty_like(source)
        taken = _alternate([whole, few, more, partial(target.copy_, source)], rounds)
        row = (taken[2] - taken[1]) / ((MORE - FEW) * OBSERVATIONS)
        found.append(
            Limit(
                kernel=name,
                shape=" ".join(f"{axis}={length}" for axis, length in zip("kBD", shape, strict=True)),
                seconds=taken[0],
                arithmetic=row * shape[0] * shape[1] / conditions["threads"],
                memory=taken[3],
                bytes=size,
                rounds=rounds,
                **{key: conditions[key] for key in ("device", "threads", "torch", "isa")},
            )
        )
    return found


def _on_one_thread(kernel: Kernel) -> Kernel:
    def run() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            kernel()
        finally:
            torch.set_num_threads(threads)

    return run


def _alternate(works: list[Kernel], rounds: int) -> list[float]:
    """Return the median seconds of each workload, measured alternately."""
    seconds = np.empty((rounds, len(works)))
    for index in range(-5, rounds):
        for column, work in enumerate(works):
            work()  # warms the caches after the others
            start = time.perf_counter()
            work()
            if index >= 0:
                seconds[index, column] = time.perf_counter() - start
    return [float(median) for median in np.median(seconds, axis=0)]


def table(limits: list[Limit]) -> str:
    lines = [
        "| kernel | shape | ms | arithmetic ms | memory ms | bound by | of its bound |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: |",
    ]
    lines += [
        f"| {limit.kernel} | {limit.shape} | {1e3 * limit.seconds:.3f} | {1e3 * limit.arithmetic:.3f} "
        f"| {1e3 * limit.memory:.3f} | {limit.bound} | {limit.share:.0%} |"
        for limit in limits
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    shapes = {"sample_gaussian": (50, 20, 50), "tanh": (50, 20, 200), "": (50, 20, 784)}
    limits = measure(shapes, arguments.rounds)
    output = arguments.output or Path("benchmarks/results") / f"limits-{slug(limits[0].device)}.csv"
    with output.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Limit)])
        writer.writeheader()
        writer.writerows(asdict(limit) for limit in limits)
    print(table(limits))
    print(f"\nwritten to {output}")


if __name__ == "__main__":
    main()
