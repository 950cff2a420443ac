"""The kernels that a call would launch on a GPU, counted on the CPU.

Operations of torch count as one launch each, unless they only return views or allocate memory. The package's own are
looked into: what counts are the launches of Triton's interpreter or of the CUDA emulator, and the operations of torch
around them. A matrix product is one launch here, even where cuBLAS takes a second one to add up its parts, and so is
``topk``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import GridExecutor

from iwae_fast.backends import NATIVE

WITHOUT_A_KERNEL = {
    "aten::empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::new_empty",
    "aten::new_empty_strided",
    "aten::_local_scalar_dense",
    "aten::resize_",
    "aten::set_",
}


class Launches(TorchDispatchMode):
    """A mode that lists the launches of everything that runs inside it, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "iwae_fast":
            _emulated()
            with self, _listing_interpreted(self.names):
                result = func._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *args, **kwargs)
            self.names += [func._opname] * _emulated()
            return result
        result = func(*args, **kwargs)
        if _is_launch(func, result, args, kwargs):
            self.names.append(func._opname)
        return result


@contextmanager
def _listing_interpreted(names: list[str]) -> Iterator[None]:
    """Append the name of each kernel that Triton's interpreter runs."""
    run = GridExecutor.__call__

    def counted(executor: GridExecutor, *arguments: Any, **options: Any) -> None:
        names.append(executor.fn.__name__)
        with _disable_current_modes():  # the interpreter itself copies tensors
            run(executor, *arguments, **options)

    GridExecutor.__call__ = counted
    try:
        yield
    finally:
        GridExecutor.__call__ = run


def _emulated() -> int:
    """Return the number of launches of the CUDA emulator since the last call."""
    kernels: Any = getattr(NATIVE["cuda"], "kernels", None)
    return len(kernels.launches()) if hasattr(kernels, "launches") else 0


def _is_launch(func: Any, result: Any, args: tuple, kwargs: dict) -> bool:
    if func._schema.name in WITHOUT_A_KERNEL:
        return False
    returns = func._schema.returns  # none of an operation on lists of tensors in place
    if returns and all(r.alias_info is not None and not r.alias_info.is_write for r in returns):
        return False  # a view
    return any(isinstance(leaf, Tensor) and leaf.numel() for leaf in tree_leaves((result, args, kwargs)))
