"""Runs ops on the device of their backend, from tensors on the CPU and back, so that one test covers every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from iwae_fast.backends import NATIVE

BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable())))
    for name, native in NATIVE.items()
]
"""Each backend with kernels, as a test parameter; skipped with the reason if it cannot run."""

COMPILED = [backend for backend in BACKENDS if backend.values[0] != "triton"]
"""The backends without Triton, whose interpreter takes seconds where these take milliseconds."""

TRITON = [backend for backend in BACKENDS if backend.values[0] == "triton"]
"""The Triton backend alone, for which tests draw fewer examples."""

COMPILATIONS = [
    pytest.param(*backend.values, dynamic, marks=backend.marks)
    for backend in BACKENDS
    for dynamic in (True, False)
    if dynamic or backend is BACKENDS[0]
]
"""Pairs of a backend and True for dynamic shapes. Tracing hardly depends on the backend: one is enough for static
shapes."""

ALL = [*BACKENDS, "reference"]


def device_of(backend: str | None) -> str:
    return NATIVE[backend].device if backend in NATIVE else "cpu"


def run(function: Callable[..., Any], *arguments: Any, backend: str | None = None, **options: Any) -> Any:
    """Run ``function(..., backend=backend)`` on tensors moved to the backend's device, and move the results back."""
    device = device_of(backend)
    if device == "cpu":
        return function(*arguments, backend=backend, **options)
    moved = [place(a, device) for a in arguments]
    result = function(*moved, backend=backend, **{name: place(o, device) for name, o in options.items()})
    return tuple(r.cpu() for r in result) if isinstance(result, tuple) else result.cpu()


def place(argument: Any, device: str) -> Any:
    """Move a tensor to the device with its memory layout; return other arguments unchanged."""
    if not isinstance(argument, Tensor):
        return argument
    return argument.to(device) if _is_plain(argument) else _Move.apply(argument, device)


def _is_plain(tensor: Tensor) -> bool:
    """Return True if ``to`` preserves the memory layout, or if nothing else is possible (while tracing)."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    return tensor.layout != torch.strided or (tensor.is_contiguous() and tensor.storage_offset() == 0)


class _Move(torch.autograd.Function):
    """A move of a tensor's underlying memory: ``to`` would make expanded and strided tensors contiguous."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, device: str) -> Tensor:
        size = tensor.untyped_storage().nbytes() // tensor.element_size()
        memory = tensor.as_strided((size,), (1,), 0).to(device)
        return memory.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.cpu(), None
