"""A copy from device memory to device memory: the bandwidth that others are compared with."""

from __future__ import annotations

import torch

from .harness import Work


def works(device: torch.device, size: int) -> list[Work]:
    """``size`` bytes are read, and as many written."""
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    return [
        Work(
            op="copy",
            mode="forward",
            shape=f"{size >> 20} MiB",
            dtype="float32",
            device=device,
            providers={"torch": lambda: [target.copy_(source)]},
            truth=[source.double()],
            bytes=2 * size,
        )
    ]
