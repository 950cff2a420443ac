"""The dtype that autocast gives to matrix products."""

from __future__ import annotations

import torch


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the dtype that autocast casts a linear layer to on this device; None where it is off or does not exist."""
    if device.type == "meta" or not torch.is_autocast_enabled(
        device.type
    ):  # which raises for a device without autocast
        return None
    return torch.get_autocast_dtype(device.type)
