"""Steps of Adam on the backend that serves the parameters; :mod:`iwae_fast.optim` has the public classes."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from ..backends import BUILT_IN, ENVIRONMENT, MISSING, NATIVE, REFERENCE, choose
from ..reference import adam as reference_adam
from ..reference.adam import AdamExtras, AdamSettings, AdamTensors
from .function import implementation, supports

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
"""The dtypes of parameters that the kernels take."""


def serving(parameter: Tensor) -> str:
    """Return the backend for steps on this parameter: a forced one that has the op, else the first that has it for the
    device, else the reference.

    CUDA C++ precedes Triton, which needs a second launch to count the steps, and more time on the host.
    """
    chosen = choose(None, (parameter,))
    if chosen == REFERENCE or parameter.dtype not in DTYPES:
        return REFERENCE
    forced = os.environ.get(ENVIRONMENT) or None
    for name in BUILT_IN if forced is None else (chosen, *BUILT_IN):
        if supports("adam", name) and MISSING[name] is None and NATIVE[name].device == parameter.device.type:
            return name
    return REFERENCE


def adam(tensors: AdamTensors, settings: AdamSettings, extras: AdamExtras, turns: Tensor, backend: str) -> None:
    """Take a step in place; see :meth:`iwae_fast.backends.base.Ops.adam`."""
    if backend == REFERENCE:
        reference_adam.adam(tensors, settings, extras)
    else:
        implementation(backend).adam(tensors, settings, extras, turns)


def sum_squares(gradients: Sequence[Tensor], backend: str) -> Tensor:
    """Return float64 numbers, (n,), whose sum is that of the squares of all gradients."""
    if backend == REFERENCE:
        return reference_adam.sum_squares(gradients)
    return implementation(backend).sum_squares(gradients)
