"""Bounds of log standard deviations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def checked_bounds(bounds: Any) -> tuple[float, float] | None:
    """Return bounds of a log standard deviation as two floats, or None; raise ValueError for anything else."""
    if bounds is None:
        return None
    if isinstance(bounds, Sequence) and len(bounds) == 2 and not isinstance(bounds, str):
        low, high = (float(end) for end in bounds)
        if -math.inf < low < high < math.inf:
            return low, high
    raise ValueError(f"log_std_bounds must be two finite numbers, the lower one first, or None, got {bounds!r}")


def bounded(value: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    """Return low + (high - low) sigmoid(4 (v - m) / (high - low)) with m the center of the bounds, or v without bounds.

    The slope is 1 at the center, and never exactly 0 unless the sigmoid rounds to 0 or 1: a network leaves the bounds'
    neighborhood by gradients, which a clamp would stop.
    """
    if bounds is None:
        return value
    low, high = bounds
    width = high - low
    return low + width * torch.sigmoid((value - 0.5 * (low + high)) * (4.0 / width))
