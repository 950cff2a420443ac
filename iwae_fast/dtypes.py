"""Dtypes: those that sums are accumulated in, and the one that autocast gives to matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

WIDE = (torch.float32, torch.float64)
"""Dtypes that sums are accumulated in."""


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """Return float64 if any tensor is float64, else float32."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the dtype that autocast casts a linear layer to on this device; None where it is off or does not exist."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):  # raises for a device without autocast
        return None
    return torch.get_autocast_dtype(device.type)
