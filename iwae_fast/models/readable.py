"""Conditions under which the values of observations can be checked."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends.marshal import PLAIN


def may_be_looked_at(x: Tensor) -> bool:
    """Return True if the values of a tensor can be read, with a device synchronization if need be."""
    if torch.compiler.is_compiling() or type(x) not in PLAIN or torch._C._are_functorch_transforms_active():
        return False
    if x.is_cuda:
        return not (torch.cuda.is_current_stream_capturing() or torch.cuda.get_sync_debug_mode())
    return x.device.type == "cpu"
