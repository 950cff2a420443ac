"""Three patches of Triton's interpreter, which make tests fast and its rounding that of a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter


def mend() -> None:
    _search_once()
    _round_to_nearest()
    _reduce_in_a_tree()


def _search_once() -> None:
    """Search Triton's language for builtins once per helper function, not at every call."""
    searched = set()

    def call(self: interpreter.InterpretedFunction, *arguments: Any, **options: Any) -> Any:
        if self.fn not in searched:
            interpreter._patch_lang(self.fn)
            searched.add(self.fn)
        return self.rewrite()(*arguments, **options)

    interpreter.InterpretedFunction.__call__ = call


def _round_to_nearest() -> None:
    """Round to bfloat16 to nearest, ties to even, as GPUs and torch do; the interpreter truncates."""
    convert = interpreter._convert_float

    def rounded(values: np.ndarray, source: tl.dtype, target: tl.dtype, mode: Any) -> np.ndarray:
        if target != tl.bfloat16 or source not in (tl.float32, tl.float64):
            return convert(values, source, target, mode)
        return torch.from_numpy(np.ascontiguousarray(values)).bfloat16().view(torch.int16).numpy().view(np.uint16)

    interpreter._convert_float = rounded


def _reduce_in_a_tree() -> None:
    """Reduce with a binary function by halving the axis, not element by element, which is slow."""

    def tree(self: interpreter.ReduceOps, inputs: tuple[tl.tensor, ...]) -> list[tl.tensor]:
        parts = list(inputs)
        while (size := parts[0].handle.data.shape[self.axis]) > 1:
            low, high = (
                [self.to_tensor(np.take(p.handle.data, half, self.axis), p.dtype) for p in parts]
                for half in (range(size // 2), range(size // 2, size))
            )
            combined = self.combine_fn.fn(*low, *high)
            parts = list(combined) if isinstance(combined, tuple) else [combined]
        return [self.to_tensor(p.handle.data.squeeze(self.axis), p.dtype) for p in parts]

    interpreter.ReduceOps.generic_reduce = tree
