"""The Triton backend: each op is the function of its name in ``iwae_fast.kernels``, imported when first called.

With TRITON_INTERPRET=1 the kernels run in Triton's interpreter, on CPU tensors: slow, and how they are tested where
there is no GPU. That is never chosen by itself.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch

OLDEST = (3, 6)

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")
"""As triton itself reads it, when its kernels are defined."""

DEVICE = "cpu" if INTERPRETED else "cuda"

EXTRA: frozenset[str] = frozenset()


def missing() -> str | None:
    """What this backend lacks to be used, or None: known without importing Triton or touching a device."""
    installed = _version()
    if installed is None:
        return "Triton is not installed; it comes with CUDA builds of torch, or by pip install 'iwae_fast[triton]'"
    if tuple(int(part) for part in installed.split(".")[:2]) < OLDEST:
        return f"Triton {installed} is too old: at least {OLDEST[0]}.{OLDEST[1]} is needed"
    if not INTERPRETED and torch.version.cuda is None:
        return f"this build of torch ({torch.__version__}) has no CUDA"
    return None


def unavailable() -> str | None:
    """Why this backend cannot run here, or None."""
    if (reason := missing()) is not None:
        return reason
    return None if INTERPRETED or torch.cuda.is_available() else "there is no CUDA device"


def details() -> dict[str, Any]:
    return {"version": _version(), "interpreted": INTERPRETED} if missing() is None else {}


def _version() -> str | None:
    if find_spec("triton") is None:
        return None
    for distribution in ("triton", "pytorch-triton"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return importlib.import_module("triton").__version__


def __getattr__(name: str) -> Callable[..., Any]:
    """The op of this name."""
    try:
        module = importlib.import_module(f"..kernels.{name.removesuffix('_backward')}", __package__)
    except ModuleNotFoundError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return globals().setdefault(name, getattr(module, name))
