"""A copy from device memory to device memory, as the bandwidth to compare with."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from . import agreement
from .ops import entries
from .work import Check, Evidence, Provider, Task, Work


def works(device: torch.device, size: int) -> list[Work]:
    """Return a workload that reads ``size`` bytes and writes as many."""
    check = Check(partial(truth, device, size), agreement.of_entries)
    return [
        Work(
            op="copy",
            mode="forward",
            shape=f"{size >> 20} MiB",
            device=device,
            providers=(Provider("torch", partial(prepare, device, size), check, role="bound"),),
            bytes=2 * size,
        )
    ]


def source(device: torch.device, size: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(size // 4, device=device)


def prepare(device: torch.device, size: int) -> Task:
    original = source(device, size)
    target = torch.empty_like(original)

    def run() -> list[Tensor]:
        return [target.copy_(original)]

    return Task(run, lambda: entries(run, [original]))


def truth(device: torch.device, size: int) -> Evidence:
    """Return the source, whose copy has no rounding error."""
    (expected,) = entries(lambda: [source(device, size)], []).values()
    return {"result 0": agreement.Sum(expected, 0.0 * expected)}
