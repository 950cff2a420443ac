"""The number of decoder rows (samples times observations) that an evaluation processes at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ON_A_CPU = 4096
"""Rows on a CPU: enough for large matrix products, few enough for the caches."""

MOST_ON_A_GPU = 2**18
"""The most rows on a GPU: beyond this an H100 is hardly faster (256 observations: 771 ms for 1000 samples at once, 735
ms for 5000 at once)."""

SHARE_OF_FREE_MEMORY = 0.25
"""The fraction of the free GPU memory that one step may use."""

ARRAYS = 16
"""The assumed number of live arrays of the widest layer per row. Dense networks have about 3; the rest is for memory
that parameter shapes do not show, such as feature maps of convolutions."""


def rows_at_once(device_type: str, free: int, bytes_per_row: int) -> int:
    """Return the number of rows to evaluate at once, at least 1.

    Args:
        device_type: a ``torch.device.type``; only "cuda" depends on memory.
        free: free bytes of the device's memory.
        bytes_per_row: bytes that a row needs, as estimated by :func:`bytes_of_row`.
    """
    if device_type != "cuda":
        return ON_A_CPU
    return min(MOST_ON_A_GPU, max(1, int(free * SHARE_OF_FREE_MEMORY) // max(1, bytes_per_row)))


def bytes_of_row(model: nn.Module, x: Tensor) -> int:
    """Estimate the bytes that a row needs: 16 arrays of the width of the observation or the widest layer.

    A layer's width is taken as the largest first dimension of its parameters, which is its number of outputs (or of
    inputs for a transposed layer). If the estimate is too small, an evaluation runs out of memory and continues with
    half the rows.
    """
    parameters = list(model.parameters())
    widest = max([x.shape[1:].numel(), *(p.shape[0] for p in parameters if p.dim())])
    size = max([4, *(p.element_size() for p in parameters)])
    return ARRAYS * widest * size


def device_rows(model: nn.Module, x: Tensor) -> int:
    """Return :func:`rows_at_once` for the device of x and its free memory, without a device synchronization."""
    free = free_memory(x.device) if x.device.type == "cuda" else 0
    return rows_at_once(x.device.type, free, bytes_of_row(model, x))


def free_memory(device: torch.device) -> int:
    """Return the bytes of a CUDA device that are free or cached by torch but unused."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
