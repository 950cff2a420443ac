"""The launches of this package's ops on a GPU, and the matrix products beside them, with the bytes that each moves."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from .kernel_model import MULTIPROCESSORS, Kernel, Launch

PRODUCTS = 36e12
"""Floating-point operations per second of torch's float32 products: 16 GFLOP in 443 us, from the measured row
`linear, then triton` of linear_bernoulli_log_prob, forward, less the time of the density."""

FUSED_PRODUCTS = 29e12
"""The rate of the product inside Triton's linear_bernoulli_log_prob, from its measured row: 16 GFLOP in 546 us. That
row cannot check the model, therefore."""

K = 50
"""The samples of every loss in `make gpu`."""

MANY_THREADS, MANY_OBSERVATIONS = 2**17, 256
"""Thresholds of csrc/cuda/device.h: with fewer threads a warp takes fewer rows, and with fewer observations a loss that
is not read once has a launch for each step."""


class Density(NamedTuple):
    """A density: its class in CUDA and the tensors of a pass."""

    name: str
    parameters: int
    """The tensors that a row reads, with the observation."""
    large: int
    """Those of the size (k, B, D)."""


DENSITIES = {
    "bernoulli": Density("BernoulliDensity", 2, 1),
    "gaussian": Density("GaussianDensity", 3, 2),
    "standard_gaussian": Density("StandardGaussianDensity", 1, 1),
}


def launches_of(row: Sequence[str], backend: str, kernels: Sequence[Kernel]) -> list[Launch]:
    """Return the launches of one of our ops; none if the table has no kernel for it."""
    op, mode, shape, dtype = row
    if mode == "forward+backward" and not op.endswith("iwae_loss") and op != "sample_gaussian":
        parts = [launches_of((op, part, shape, dtype), backend, kernels) for part in ("forward", "backward")]
        return parts[0] + parts[1] if all(parts) else []
    sizes = {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", shape)}
    density = DENSITIES.get(re.sub(r"_(log_prob|iwae_loss)$", "", op))
    own = [kernel for kernel in kernels if kernel.backend == backend and kernel.work in (tuple(row), ("",) * 4)]
    if density is None:
        return _columns(row, sizes, own) if op == "log_mean_exp" else _samples(row, sizes, own)
    itemsize = 2 if dtype == "bfloat16" else 4
    rows, features = sizes["k"] * sizes["B"], sizes["D"]
    tensor = rows * features * itemsize
    observation = sizes["B"] * features * itemsize if density.parameters > density.large else 0
    read = density.large * tensor + observation
    passes = {
        "log_prob_kernel": read,
        "gradient_kernel": read + density.large * tensor,
    }
    if op.endswith("iwae_loss") and backend == "cuda":
        fused = _fused(density, rows, features, read + density.large * tensor, own)
        if fused:
            return fused
    if not op.endswith("iwae_loss"):
        passes = {name: each for name, each in passes.items() if (name == "log_prob_kernel") == (mode == "forward")}
    made = []
    for name, moved in passes.items():
        kernel = _chosen(own, name, density.name, dtype)
        if kernel is None:
            return []
        per_turn = kernel.elements(density.parameters * itemsize)
        if backend == "triton":
            threads = kernel.blocks * kernel.threads
            turns = math.ceil(rows * features / (threads * per_turn))
        else:
            width = 16 // itemsize  # of a lane; a warp takes several rows
            turns = math.ceil(features / (32 * width))
            rows_a_warp = 1 << max(1, per_turn // width).bit_length() - 1
            while rows_a_warp > 1 and 32 * rows / rows_a_warp < MANY_THREADS:
                rows_a_warp //= 2
            threads = 32 * math.ceil(rows / rows_a_warp)
        made.append(Launch(kernel, threads, turns, moved))
    if op.endswith("iwae_loss"):
        weights = _chosen(own, "weights_kernel", "", dtype)
        if weights is not None:
            threads = weights.blocks * weights.threads or 8 * rows // K
            made.append(Launch(weights, threads, 1, 8.0 * rows))
    return made


def _fused(density: Density, rows: int, features: int, moved: int, kernels: Sequence[Kernel]) -> list[Launch]:
    """Return the launch of a loss whose blocks have all rows of an observation: read once in clusters, or twice."""
    once = _chosen(kernels, "iwae_loss_once_kernel", density.name, "float32")
    if once is not None:
        warps = min(rows, MULTIPROCESSORS * once.resident)
        turns = math.ceil(features / (32 * 4)) * math.ceil(rows / warps)  # of 4 elements per lane
        return [Launch(once, 32 * warps, turns, moved, syncs=1)]
    kernel = _chosen(kernels, "iwae_loss_kernel", density.name, "float32")
    if kernel is None or rows // K < MANY_OBSERVATIONS:
        return []
    threads = rows // K * kernel.threads  # one block per observation
    turns = math.ceil(rows * features / (threads * kernel.elements(4 * density.parameters)))
    return [Launch(kernel, threads, 2 * turns, 1.5 * moved)]


def _columns(row: Sequence[str], sizes: dict[str, int], kernels: Sequence[Kernel]) -> list[Launch]:
    backward = row[1] == "backward"
    kernel = _chosen(kernels, "log_mean_exp_gradient_kernel" if backward else "log_mean_exp_kernel", "", row[3])
    if kernel is None:
        return []
    numbers = sizes["k"] * sizes["B"]
    threads = kernel.blocks * kernel.threads if kernel.blocks else math.ceil(sizes["k"] / 8) * sizes["B"] // 4
    return [Launch(kernel, threads, 1, 4.0 * (2 * numbers if backward else numbers + sizes["B"]))]


def _samples(row: Sequence[str], sizes: dict[str, int], kernels: Sequence[Kernel]) -> list[Launch]:
    made = []
    for name in ("sample_gaussian_kernel", "sample_gaussian_gradient_kernel"):
        kernel = _chosen(kernels, name, "", row[3])
        if kernel is None:
            return []
        numbers = sizes["k"] * sizes["B"] * sizes["Z"]
        threads = kernel.blocks * kernel.threads or numbers // 4
        made.append(Launch(kernel, threads, max(1, round(numbers / (4 * threads))), 4.0 * numbers))
    return made


def _chosen(kernels: Sequence[Kernel], name: str, density: str, dtype: str) -> Kernel | None:
    """Return the kernel of a name, density and dtype that reads the most at a time, or None."""
    stored = "BFloat16" if dtype == "bfloat16" else "float"
    found = [
        kernel
        for kernel in kernels
        if kernel.name == name
        or (
            kernel.name.startswith(f"{name}<{density}")
            and re.search(rf"\b{stored}, |^[^,]*<{stored}>+$|^iwae_loss_kernel", kernel.name)
        )
    ]
    # Rows that are copied to shared memory come first, then the widest loads and the largest blocks.
    return max(found, key=lambda kernel: ("Copying" in kernel.name, kernel.name[-2], kernel.threads), default=None)


def products(row: Sequence[str], backend: str, kernels: Sequence[Kernel]) -> tuple[float, list[Launch]]:
    """Return the seconds of a linear op's matrix products, and the launches beside them.

    Where the loss is computed together with its gradients, there are three products; where a backward pass recomputes
    the logits, four, in Triton two of them inside its own kernel, which has no logits in memory.
    """
    op, mode, shape, dtype = row
    sizes = {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", shape)}
    product = 2.0 * math.prod(sizes.values())
    logits = shape.replace(f" H={sizes['H']}", "")
    if op.endswith("iwae_loss"):
        return 3 * product / PRODUCTS, launches_of(("bernoulli_iwae_loss", mode, logits, dtype), backend, kernels)
    backward = mode != "forward"
    if backend == "triton":
        return (2 if backward else 1) * product / FUSED_PRODUCTS + 2 * backward * product / PRODUCTS, []
    density = [
        _of_fewer_rows(launch, sizes["B"] / 2048)
        for launch in launches_of(
            ("bernoulli_log_prob", mode, logits.replace(f"B={sizes['B']}", "B=2048"), dtype), backend, kernels
        )
    ]
    return (4 if backward else 1) * product / PRODUCTS, density


def _of_fewer_rows(launch: Launch, part: float) -> Launch:
    return launch._replace(threads=int(launch.threads * part), bytes=launch.bytes * part)
