"""A recorder for the CPU that behaves like a CUDA graph: a replay repeats a function's operations on the same memory,
but not its Python code. Values that the host had read from a tensor, or computed itself, stay fixed."""

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
"""The folder whose code may read values of CPU tensors: on a GPU it does not read them, or the value never changes."""


class Tape(TorchDispatchMode):
    """A mode that records every operation, with its operands and results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict, Any]] = []

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let compiled code run inside the mode, which sees its operations if the compiler leaves them to torch."""
        return True

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
            if func.namespace == "c10d":  # a collective, which returns before it has written its results
                *_, work = again
                torch.distributed.Work.unbox(work).wait()
            for returned, old, new in zip(func._schema.returns, _several(result), _several(again), strict=True):
                if returned.alias_info is None:  # otherwise it is memory passed to the operation
                    _overwrite(old, new)


class TapeRecorder:
    """A recorder that records on tapes. Recording runs the function, so the first replay does nothing."""

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
    """Overwrite the recorded results of an operation by its new results."""
    for before, now in zip(_tensors(old), _tensors(new), strict=True):
        before.copy_(now)


def _tensors(result: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, result)
    return found
