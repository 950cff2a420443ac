"""Copies from device memory to device memory, as the bandwidth to compare with.

Several ways of copying are measured, and the fastest is the bandwidth that can be reached: one way alone was 20 % below
the others on an H100. Beside each op, a copy of as many bytes as the op reads and writes is measured in the same way as
the op, so that what fits into the cache is compared with what a copy does there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from . import agreement
from .rows import Row
from .work import COPIED, Check, Evidence, Provider, Task, Work

OP = "copy"

MIB = 2**20

SIZES = (64 * MIB, 256 * MIB, 1024 * MIB)
"""Sizes of a copied tensor in bytes."""

FOOTPRINT = 1024 * MIB
"""The least size of all tensors that are copied in turn, many times that of a cache (50 MiB on an H100)."""

SEEN = 997
"""One entry of this many is checked."""

Way = Callable[[Tensor, Tensor], object]
"""A picklable function that copies the second tensor to the first."""


def by_copy(target: Tensor, source: Tensor) -> None:
    """Copy as torch does, by the driver where both are contiguous."""
    target.copy_(source)


def by_kernel(target: Tensor, source: Tensor) -> None:
    """Copy by torch's kernel for one operation per element."""
    torch.mul(source, 1.0, out=target)


def works(device: torch.device, sizes: Sequence[int] = SIZES, footprint: int = FOOTPRINT) -> list[Work]:
    """Return workloads whose call copies tensors of one size in turn: inside a CUDA graph, and launched one by one."""
    made = []
    for size in sizes:
        pairs = max(2, footprint // (2 * size))
        check = Check(partial(truth, device, size, pairs), agreement.differing_entries)

        def provider(name: str, way: Way, size: int = size, pairs: int = pairs, check: Check = check) -> Provider:
            return Provider(name, partial(prepare, device, size, pairs, way), check, role="bound")

        shape = f"{size // MIB} MiB"
        both = provider("torch copy_", by_copy), provider("torch mul", by_kernel)
        made += [
            Work(OP, "in a graph", shape, both, device=device, read=pairs * size, written=pairs * size),
            Work(OP, "eager", shape, both[:1], device=device, whole=True, read=pairs * size, written=pairs * size),
        ]
    return made


def beside(device: torch.device, moved: int) -> tuple[Provider, ...]:
    """Return the copy to compare an op with that reads and writes ``moved`` bytes in all, on a GPU."""
    if device.type != "cuda":
        return ()
    return (Provider(COPIED, partial(prepare, device, moved // 2), None, role="bound"),)


def best(rows: Sequence[Row]) -> float | None:
    """Return the largest bandwidth of any copy in bytes per second, or None if no copy was measured."""
    return max((row.bytes / row.median for row in rows if row.op == OP), default=None)


def sources(device: torch.device, size: int, pairs: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(max(1, size // 4), device=device) for _ in range(pairs)]


def prepare(device: torch.device, size: int, pairs: int = 1, way: Way = by_copy) -> Task:
    given = sources(device, size, pairs)
    targets = [torch.empty_like(source) for source in given]

    def run() -> None:
        for target, source in zip(targets, given, strict=True):
            way(target, source)

    def evidence() -> Evidence:
        run()
        return {name: value for name, (value, _) in seen(targets).items()}

    return Task(run, evidence)


def truth(device: torch.device, size: int, pairs: int) -> Evidence:
    return seen(sources(device, size, pairs))


def seen(tensors: list[Tensor]) -> dict[str, agreement.Sum]:
    """Return some entries of each tensor; a copy does not round, so there are no terms."""
    some = [tensor[::SEEN].cpu().numpy() for tensor in tensors]
    return {f"tensor {index}": agreement.Sum(each, 0.0 * each) for index, each in enumerate(some)}
