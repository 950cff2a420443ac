"""The C++ backend: the ops of :mod:`.native` with the kernels for this processor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import native
from .extension import MODULE, REASON

DEVICE = "cpu"

EXTRA = frozenset(
    {
        "bernoulli_iwae_loss_and_gradients",
        "gaussian_iwae_loss_and_gradients",
        "linear_bernoulli_iwae_loss",
        "linear_bernoulli_log_prob_and_residual",
        "linear_tanh",
    }
)


def missing() -> str | None:
    """What this backend lacks to be used, or None."""
    return REASON


unavailable = missing


def details() -> dict[str, Any]:
    if MODULE is None:
        return {}
    kernels = MODULE.cpu
    return {
        "isa": kernels.isa(),
        "usable_isas": kernels.usable_isas(),
        "openmp": kernels.has_openmp(),
        "file": MODULE.__file__,
    }


def _threads(_: Tensor) -> int:
    return torch.get_num_threads()


KERNELS = native.Native(getattr(MODULE, "cpu", None), _threads)


def __getattr__(name: str) -> Callable[..., Any]:
    """The op of this name."""
    if name not in native.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, partial(getattr(native, name), KERNELS))
