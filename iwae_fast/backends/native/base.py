"""Shared parts of the operations of the C++ extension, which allocate results through torch and pass pointers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..base import WithoutOptionalOps


class Native(WithoutOptionalOps, ABC):
    """The kernels of the extension for one type of device."""

    kernels: Any
    """``iwae_fast._C.cpu`` or ``iwae_fast._C.cuda``."""

    @abstractmethod
    def run(self, kernel: Callable[..., None], tensor: Tensor, *arguments: Any) -> None:
        """Call a kernel on the tensor's device; kernels write to the memory whose pointers they are given."""
