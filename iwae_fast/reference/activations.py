"""The activations of dense layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def none(x: Tensor) -> Tensor:
    """Return x: the layer is linear."""
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": none,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": F.gelu,
    "silu": F.silu,
}

FROM_INPUT = ("gelu", "silu")
"""The activations whose derivative is computed from their input; that of the others is a function of their output."""
