"""A recorder for the CPU that does to a function what a CUDA graph does: it repeats its operations, on the same memory,
and nothing of its Python. What the host had read from a tensor, or computed by itself, stays what it was."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from iwae_fast import ops
from iwae_fast.capture import Recording

OPS = str(Path(ops.__file__).parent)
"""The folder whose code reads values of CPU tensors alone: it does not do so on a GPU, or the value is the same each
time."""


class Tape(TorchDispatchMode):
    """Notes every operation inside, with its operands and results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            if not any(file.startswith(OPS) for file in _callers()):
                raise RuntimeError("a number is read by the host")
            return func(*args)
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            for returned, old, new in zip(func._schema.returns, _several(result), _several(again), strict=True):
                if returned.alias_info is None:  # else it is memory that the operation was given
                    _overwrite(old, new)


class TapeRecorder:
    """Records on tapes; what a recording does, its first replay has done already."""

    def __init__(self) -> None:
        self.rehearsed = self.recorded = self.replayed = self.forgotten = 0

    def rehearse(self, function: Callable[[], Any]) -> tuple[Any, str | None]:
        self.rehearsed += 1
        return function(), None

    def record(self, function: Callable[[], Any]) -> Recording:
        with Tape() as tape:
            result = function()
        self.recorded += 1
        pending = [tape]

        def replay() -> None:
            self.replayed += 1
            if pending:
                pending.clear()
            else:
                tape.replay()

        return Recording(replay, result)

    def forget(self) -> None:
        self.forgotten += 1


def _callers() -> list[str]:
    frame, found = sys._getframe(2), []
    while frame is not None:
        found.append(frame.f_code.co_filename)
        frame = frame.f_back
    return found[:6]


def _several(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else () if result is None else (result,)


def _overwrite(old: Any, new: Any) -> None:
    """What the operation returned then by what it returned now."""
    for before, now in zip(_tensors(old), _tensors(new), strict=True):
        before.copy_(now)


def _tensors(result: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, result)
    return found
