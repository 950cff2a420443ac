"""The choice of the implementation for a call. :mod:`iwae_fast.backends.serving` has the table for CUDA tensors.

A backend is an object of the protocol :class:`iwae_fast.backends.base.Backend`. ``reference`` is not one of them: it
is plain torch, always available, differentiated by autograd, and used for calls that no backend supports.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from .. import checks
from . import serving
from .base import Backend, members
from .cpu import CPUBackend
from .cuda import CUDABackend
from .errors import BackendError
from .marshal import refusal
from .notice import warn_once
from .triton import TritonBackend

__all__ = [
    "BEST",
    "ENVIRONMENT",
    "MISSING",
    "NATIVE",
    "REFERENCE",
    "BackendError",
    "best",
    "choose",
    "info",
    "register",
    "unregister",
]

REFERENCE = "reference"
CUDA = CUDABackend()
NATIVE: dict[str, Backend] = {"cpu": CPUBackend(), "cuda": CUDA, "triton": TritonBackend()}
"""Backends with kernels: those of the package, then those that :func:`register` added."""

BUILT_IN = tuple(NATIVE)

MISSING = {name: backend.missing() for name, backend in NATIVE.items()}
"""The software that each backend lacks, or None. Determined once, because ``torch.compile`` may trace a call: the
choice of a backend depends only on this table and the tensors, without queries to the machine."""

CUDA_BACKENDS = serving.OTHERS.order(None)
"""The backends that may be chosen for CUDA tensors, in the order for large calls of ops without figures."""


def _first(names: tuple[str, ...]) -> str:
    return next((name for name in names if MISSING[name] is None), REFERENCE)


BEST = {"cpu": _first(("cpu",)), "cuda": _first(CUDA_BACKENDS)}
"""The backend for large calls on ordinary tensors of a device type if none is forced and the op has no figures of its
own. Computed without accessing a device."""

_SERVES = {order: _first(order) for order in (CUDA_BACKENDS, CUDA_BACKENDS[::-1])}
"""The first backend of each order that is not missing."""

ENVIRONMENT = "IWAE_FAST_BACKEND"


def register(name: str, backend: Backend) -> None:
    """Make a backend of your own available by its name: in ``backend=`` of every op, and in ``IWAE_FAST_BACKEND``.

    It is never chosen automatically. While torch traces, its methods are called by the registered ops, as those of the
    package's backends are.

    Args:
        name: a name that no backend has.
        backend: an object with the members of :class:`iwae_fast.backends.base.Backend`.

    Raises:
        ValueError: if a backend of this name exists.
        TypeError: if the object lacks a member.
    """
    if name in (*NATIVE, REFERENCE):
        raise ValueError(f"backend name {name!r} is taken: expected none of {', '.join((*NATIVE, REFERENCE))}")
    if absent := [member for member in members() if not hasattr(backend, member)]:
        raise TypeError(
            f"backend must have the members of iwae_fast.backends.base.Backend, got {type(backend).__name__} without "
            f"{', '.join(absent)}"
        )
    MISSING[name] = backend.missing()
    NATIVE[name] = backend


def unregister(name: str) -> None:
    """Remove a backend that :func:`register` added; raise ValueError if there is none of this name."""
    if name in BUILT_IN or name not in NATIVE:
        raise ValueError(f"name must be that of a registered backend, got {name!r}")
    del NATIVE[name], MISSING[name]


def choose(
    forced: str | None, tensors: tuple[Tensor | None, ...], op: str | None = None, shape: tuple[int, ...] = ()
) -> str:
    """Return the backend for a call on these tensors: the forced one, else the best that supports them, else the
    reference.

    Args:
        forced: the backend that the caller named, or None.
        tensors: the operands; the first decides about the device.
        op: the name of the op, by which :mod:`iwae_fast.backends.serving` chooses a backend for CUDA tensors.
        shape: the shape to which the operands are broadcast, features included.

    Raises ValueError for an unknown backend and BackendError if a forced one does not support the call.
    """
    forced = forced or os.environ.get(ENVIRONMENT) or None
    if forced is None:
        candidate = best(tensors[0].device, op, shape)  # type: ignore[union-attr]
        return candidate if candidate == REFERENCE or refusal(tensors, len(shape)) is None else REFERENCE
    if _known(forced) == REFERENCE:
        return REFERENCE
    reason = MISSING[forced] or _wrong_device(forced, tensors) or refusal(tensors, len(shape))
    if reason is not None:
        raise BackendError(f"backend {forced!r} is forced but does not support this call: {reason}")
    return forced


def best(device: torch.device, op: str | None, shape: tuple[int, ...] = ()) -> str:
    """Return the backend for ordinary tensors of a device, whatever the environment says.

    While torch traces, the choice depends on the device type and the op alone.
    """
    if device.type != "cuda":
        candidate = BEST.get(device.type, REFERENCE)
        if candidate == REFERENCE and device.type == "cpu" and not torch.compiler.is_compiling():
            warn_once(MISSING["cpu"])
        return candidate
    if op == serving.DENSE_LAYER:
        suits = MISSING["triton"] is None and serving.prefers_triton(shape) and _has_tensor_cores(device)
        return "triton" if suits else REFERENCE
    candidate = _SERVES[serving.rule_of(op).order(serving.number_of_elements(shape))]
    if candidate == "cuda" and not torch.compiler.is_compiling() and not CUDA.suits(device):
        return "triton" if MISSING["triton"] is None else REFERENCE
    return candidate


def _has_tensor_cores(device: torch.device) -> bool:
    """Return True if the GPU has tensor cores for float32 in parts of TF32 and for bfloat16."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _known(name: str) -> str:
    return checks.one_of("backend", name, (*NATIVE, REFERENCE))


def _wrong_device(name: str, tensors: tuple[Tensor | None, ...]) -> str | None:
    wanted = NATIVE[name].device
    for tensor in tensors:
        if tensor is not None and tensor.device.type != wanted:
            reason = f"it takes {wanted} tensors, got one on {tensor.device}"
            return reason if torch.compiler.is_compiling() else NATIVE[name].unavailable() or reason
    return None


def info() -> dict[str, Any]:
    """Return the availability of each backend, with the reason if unavailable, the choice for each device, and where
    there is a GPU the choice for each op on it, with the figures that decided.

    Raises ValueError if the environment forces an unknown backend.
    """
    available = {name: backend.unavailable() for name, backend in NATIVE.items()}
    forced = os.environ.get(ENVIRONMENT)
    on_gpu = torch.cuda.is_available()
    chosen = {device: _known(forced) if forced else BEST[device] for device in (["cpu", "cuda"] if on_gpu else ["cpu"])}
    native = {
        name: {"available": reason is None, "reason": reason, **NATIVE[name].details()}
        for name, reason in available.items()
    }
    return {
        "backends": {**native, REFERENCE: {"available": True, "reason": None}},
        "chosen": chosen,
        "serving": {**{op: _served(op) for op in serving.RULES}, serving.DENSE_LAYER: _layers_served()}
        if on_gpu and not forced
        else {},
        "forced": forced or None,
    }


def _served(op: str) -> list[dict[str, Any]]:
    """Return who serves an op on CUDA tensors, by the size of the call."""
    return [
        {
            "calls": choice.calls,
            "backend": _SERVES[choice.figure.order],
            "why": _why(choice.figure),
        }
        for choice in serving.rule_of(op).choices()
    ]


def _layers_served() -> list[dict[str, Any]]:
    """Return who serves dense layers on CUDA tensors."""
    missing = MISSING["triton"]
    return [
        {
            "calls": calls,
            "backend": "torch" if missing else backend,
            "why": serving.WITHOUT_FIGURES + (f"; triton is missing: {missing}" if missing else ""),
        }
        for calls, backend in serving.DENSE_LAYER_CHOICES
    ]


def _why(figure: serving.Figure) -> str:
    first, _ = figure.order
    missing = f"; {first} is missing: {MISSING[first]}" if MISSING[first] else ""
    return f"{figure} ({serving.SOURCE}){missing}"
