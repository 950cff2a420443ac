"""The CUDA C++ backend: the ops of :mod:`.native` with kernels for NVIDIA GPUs, compiled when the package was built.

It is chosen by name only (IWAE_FAST_BACKEND=cuda or backend="cuda"): on an H100 Triton was the faster of the two in
most rows (docs/performance.md), so it serves CUDA tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from . import native
from .errors import BackendError
from .extension import MODULE, REASON

DEVICE = "cuda"

EXTRA = frozenset(
    {
        "bernoulli_iwae_loss_and_gradients",
        "gaussian_iwae_loss_and_gradients",
        "linear_bernoulli_iwae_loss",
        "linear_bernoulli_log_prob_and_residual",
        "rescale",
    }
)

OLDEST = (8, 0)
"""Compute capability: machine code is for 8.0 and 9.0, and later GPUs compile it anew from what is for 9.0."""


def missing() -> str | None:
    """What this backend lacks to be used, or None: known without touching a device."""
    if REASON is not None:
        return REASON
    if not hasattr(MODULE, "cuda"):
        return "the C++ extension was built without CUDA: reinstall where nvcc is found"
    if torch.version.cuda is None:
        return f"this build of torch ({torch.__version__}) has no CUDA"
    return None


def unavailable() -> str | None:
    """Why this backend cannot run here, or None."""
    if (reason := missing()) is not None:
        return reason
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    return _too_old(0)


def _too_old(index: int) -> str | None:
    """Why the kernels cannot run on the GPU of this index, or None."""
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST:
        return "the GPU has compute capability {}.{}, at least {}.{} is needed".format(*capability, *OLDEST)
    return None


def details() -> dict[str, Any]:
    return {"file": MODULE.__file__} if missing() is None else {}


def _stream_and_memory(tensor: Tensor) -> tuple[int, Callable[[int], int]]:
    """The current stream of the tensor's device, and memory for a call's own use.

    The memory may be given away when the call returns: torch hands it out again in the order of the stream.
    """
    taken = []

    def allocate(size: int) -> int:
        taken.append(torch.empty(size, dtype=torch.uint8, device=tensor.device))
        return taken[-1].data_ptr()

    return torch._C._cuda_getCurrentRawStream(tensor.device.index), allocate


_suitable: set[int] = set()
"""Indices of the GPUs that are new enough."""


def _on_its_device(op: Callable[..., Any]) -> Callable[..., Any]:
    """Make the device of an op's tensors current, where that is another.

    Raises BackendError where that GPU is too old: asked once per GPU, and here, where nothing is traced.
    """

    @wraps(op)
    def run(*arguments: Any) -> Any:
        device = next(a.device for a in arguments if isinstance(a, Tensor))
        if device.index not in _suitable:
            if (reason := _too_old(device.index)) is not None:
                raise BackendError(f"backend 'cuda' was asked for but cannot serve this call: {reason}")
            _suitable.add(device.index)
        if device.index == torch.cuda.current_device():
            return op(KERNELS, *arguments)
        with torch.cuda.device(device):
            return op(KERNELS, *arguments)

    return run


KERNELS = native.Native(getattr(MODULE, "cuda", None), _stream_and_memory)


def __getattr__(name: str) -> Callable[..., Any]:
    """The op of this name."""
    if name not in native.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, _on_its_device(getattr(native, name)))
