"""Whose kernels an op runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor


class Native(NamedTuple):
    """The kernels for one kind of device."""

    kernels: Any
    """Of the extension: ``iwae_fast._C.cpu`` or ``iwae_fast._C.cuda``."""
    place: Callable[[Tensor], Any]
    """What they need to know of where a tensor is: the number of threads, or a stream and an allocator."""
