"""The C++ backend: kernels for this processor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ..checks import WIDE
from .extension import MODULE, REASON
from .native import NativeBackend


class CPUBackend(NativeBackend):
    """The extension's kernels for this processor, on torch's number of threads."""

    device = "cpu"
    optional_ops: frozenset[str] = frozenset(
        {
            "adam",
            "iwae_loss_and_gradients",
            "linear_activation",
            "linear_bernoulli_iwae_loss",
            "linear_bernoulli_log_prob_and_residual",
            "sum_squares",
            "weight_scales",
        }
    )
    layer_activations: Mapping[torch.dtype, Collection[str]] = dict.fromkeys(WIDE, ("tanh",))
    kernels: Any = getattr(MODULE, "cpu", None)

    def run(self, kernel: Callable[..., None], tensor: Tensor, *arguments: Any) -> None:
        kernel(*arguments, torch.get_num_threads())

    def missing(self) -> str | None:
        return REASON

    def unavailable(self) -> str | None:
        return REASON

    def details(self) -> dict[str, Any]:
        if MODULE is None:
            return {}
        return {
            "isa": self.kernels.isa(),
            "usable_isas": self.kernels.usable_isas(),
            "openmp": self.kernels.has_openmp(),
            "file": MODULE.__file__,
        }
