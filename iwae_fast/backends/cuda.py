"""The CUDA C++ backend: kernels for NVIDIA GPUs, compiled when the package was built.

:mod:`iwae_fast.backends.serving` says which calls it serves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import BackendError
from .extension import MODULE, REASON
from .native import NativeBackend, TrainingSteps

OLDEST = (8, 0)
"""Minimum compute capability. Machine code is built for 8.0 and 9.0; the driver compiles the PTX for 9.0 on later
GPUs."""


class CUDABackend(NativeBackend, TrainingSteps):
    """The extension's kernels for NVIDIA GPUs, on the current stream of a tensor's device."""

    device = "cuda"
    optional_ops: frozenset[str] = frozenset(
        {
            "adam",
            "iwae_loss_and_gradients",
            "linear_bernoulli_iwae_loss",
            "linear_bernoulli_log_prob_and_residual",
            "rescale",
            "select_samples",
            "sum_squares",
            "weight_scales",
        }
    )
    layer_activations: Mapping[torch.dtype, Collection[str]] = {}
    # float16 could underflow before a loss scale is applied.
    rounded_gradients: frozenset[torch.dtype] = frozenset({torch.bfloat16})
    kernels: Any = getattr(MODULE, "cuda", None)

    def __init__(self) -> None:
        self._too_old: dict[int, str | None] = {}
        """The reason why the kernels cannot run on a GPU, or None, by the GPU's index."""

    def suits(self, device: torch.device) -> bool:
        """Return True if the GPU is new enough. A GPU is asked once, and never while torch traces."""
        return self._reason(device.index) is None

    def _reason(self, index: int | None) -> str | None:
        index = torch.cuda.current_device() if index is None else index
        if index not in self._too_old:
            self._too_old[index] = _too_old(index)
        return self._too_old[index]

    def no_training_steps(self, device: torch.device) -> str | None:
        """Return the reason why a GPU does not run training steps in one launch, or None."""
        if (reason := self._reason(device.index)) is not None:
            return reason
        if self.has_cooperative_launch(device):
            return None
        return f"{device} does not support cooperative launches, in which all blocks run at the same time"

    def run(self, kernel: Callable[..., None], tensor: Tensor, *arguments: Any) -> None:
        """Call a kernel with the tensor's device as the current one.

        Raises BackendError if that GPU is too old, which is checked here because this is never traced.
        """
        device = tensor.device
        if not self.suits(device):
            raise BackendError(f"backend 'cuda' does not support this call: {self._reason(device.index)}")
        if device.index == torch.cuda.current_device():
            kernel(*arguments, _stream_and_memory(device))
        else:
            with torch.cuda.device(device):
                kernel(*arguments, _stream_and_memory(device))

    def missing(self) -> str | None:
        if REASON is not None:
            return REASON
        if self.kernels is None:
            return "the C++ extension was built without CUDA: reinstall where nvcc is found"
        if torch.version.cuda is None:
            return f"this build of torch ({torch.__version__}) has no CUDA"
        return None

    def unavailable(self) -> str | None:
        if (reason := self.missing()) is not None:
            return reason
        if not torch.cuda.is_available():
            return "there is no CUDA device"
        return _too_old(0)

    def details(self) -> dict[str, Any]:
        return {"file": MODULE.__file__} if self.missing() is None else {}


def _too_old(index: int) -> str | None:
    """Return the reason why the kernels cannot run on the GPU of this index, or None."""
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST:
        return "the GPU has compute capability {}.{}, at least {}.{} is needed".format(*capability, *OLDEST)
    return None


def _stream_and_memory(device: torch.device) -> tuple[int, Callable[[int], int]]:
    """Return the current stream of a device, and an allocator of memory for the duration of a call.

    The memory may be freed when the call returns: torch reuses it in stream order.
    """
    taken = []

    def allocate(size: int) -> int:
        taken.append(torch.empty(size, dtype=torch.uint8, device=device))
        return taken[-1].data_ptr()

    return torch._C._cuda_getCurrentRawStream(device.index), allocate
