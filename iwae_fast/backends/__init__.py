"""The choice of the implementation for a call.

A backend is an object of the protocol :class:`iwae_fast.backends.base.Backend`. ``reference`` is not one of them: it
is plain torch, always available, differentiated by autograd, and used for calls that no backend supports.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from .. import checks
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
    "choose",
    "info",
    "register",
    "unregister",
]

REFERENCE = "reference"
NATIVE: dict[str, Backend] = {"cpu": CPUBackend(), "cuda": CUDABackend(), "triton": TritonBackend()}
"""Backends with kernels: those of the package, then those that :func:`register` added."""

BUILT_IN = tuple(NATIVE)

MISSING = {name: backend.missing() for name, backend in NATIVE.items()}
"""The software that each backend lacks, or None. Determined once, because ``torch.compile`` may trace a call: the
choice of a backend depends only on this table and the tensors, without queries to the machine."""

PREFERRED = {"cpu": ("cpu",), "cuda": ("triton",)}
"""Backends that may be chosen per device type, best first."""

BEST = {
    device: next((name for name in names if MISSING[name] is None), REFERENCE) for device, names in PREFERRED.items()
}
"""The backend for ordinary tensors of a device type if none is forced. Computed without accessing a device."""

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


def choose(forced: str | None, tensors: tuple[Tensor | None, ...], axes: int = 0) -> str:
    """Return the backend for a call on these tensors: the forced one, else the best that supports them, else the
    reference.

    ``axes`` is the number of axes of the call, if it may be larger than that of any tensor.

    Raises ValueError for an unknown backend and BackendError if a forced one does not support the call.
    """
    forced = forced or os.environ.get(ENVIRONMENT) or None
    if forced is None:
        device = tensors[0].device.type  # type: ignore[union-attr]
        candidate = BEST.get(device, REFERENCE)
        if candidate == REFERENCE and device == "cpu" and not torch.compiler.is_compiling():
            warn_once(MISSING["cpu"])
        return candidate if candidate == REFERENCE or refusal(tensors, axes) is None else REFERENCE
    if _known(forced) == REFERENCE:
        return REFERENCE
    reason = MISSING[forced] or _wrong_device(forced, tensors) or refusal(tensors, axes)
    if reason is not None:
        raise BackendError(f"backend {forced!r} is forced but does not support this call: {reason}")
    return forced


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
    """Return the availability of each backend, with the reason if unavailable, and the choice for each device.

    Raises ValueError if the environment forces an unknown backend.
    """
    available = {name: backend.unavailable() for name, backend in NATIVE.items()}
    forced = os.environ.get(ENVIRONMENT)
    chosen = {}
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        chosen[device] = _known(forced) if forced else BEST.get(device, REFERENCE)
    native = {
        name: {"available": reason is None, "reason": reason, **NATIVE[name].details()}
        for name, reason in available.items()
    }
    return {
        "backends": {**native, REFERENCE: {"available": True, "reason": None}},
        "chosen": chosen,
        "forced": forced or None,
    }
