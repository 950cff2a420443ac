"""Launch parameters from tensors: rows and their strides, alignment, block sizes.

Leading axes are merged if every operand allows it, so that most calls have one or two. Block sizes depend on the number
of features and the dtypes, never on the batch, so that a new batch size uses a kernel that is already compiled.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED: bool = triton.knobs.runtime.interpret
"""True if kernels run in Triton's interpreter (TRITON_INTERPRET=1), on tensors of any device."""

OPTIONS: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": True}

LOAD_BYTES = 16
"""Bytes of the widest load of a thread."""

Strides = tuple[int, ...]


class Layout(NamedTuple):
    """The layout of a tensor in memory."""

    sizes: tuple[int, ...]
    strides: Strides
    itemsize: int


def layout(tensor: Tensor | None) -> Any:
    """Return the layout of a tensor, or None for None."""
    return None if tensor is None else Layout(tuple(tensor.shape), tensor.stride(), tensor.element_size())


def contiguous(sizes: tuple[int, ...]) -> Layout:
    return Layout(sizes, tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))), 0)


def leading_sizes(operands: Sequence[Layout]) -> tuple[int, ...]:
    """Return the common sizes of all axes but the last, for operands known to broadcast."""
    return tuple(torch.broadcast_shapes(*(o.sizes[:-1] for o in operands)))


class Rows(NamedTuple):
    """Rows of a call in memory order: their number, and the mapping from a row's number to an operand's offset."""

    count: int
    inner_sizes: tuple[int, ...]
    """Sizes of all merged axes but the outermost."""
    strides: tuple[Strides, ...]
    """Strides per operand over the merged axes, in elements."""


def rows(sizes: tuple[int, ...], strides: tuple[Strides, ...]) -> Rows:
    """Return the rows over axes of these sizes, for operands with these strides along them; merge axes if possible."""
    merged: list[tuple[int, Strides]] = []
    for size, along in zip(sizes, zip(*strides, strict=True), strict=True):
        if size == 1:
            continue
        if merged and all(outer == inner * size for outer, inner in zip(merged[-1][1], along, strict=True)):
            merged[-1] = (merged[-1][0] * size, along)
        else:
            merged.append((size, along))
    if not merged:
        merged = [(1, (0,) * len(strides))]
    return Rows(
        count=math.prod(sizes),
        inner_sizes=tuple(size for size, _ in merged[1:]),
        strides=tuple(zip(*(along for _, along in merged), strict=True)),
    )


def broadcast_strides(operand: Layout | None, sizes: Sequence[int]) -> Strides:
    """Return the strides of an operand along axes of these sizes, to which it broadcasts: 0 along broadcast axes and
    for None."""
    if operand is None:
        return (0,) * len(sizes)
    missing = len(sizes) - len(operand.sizes)
    own = zip(operand.sizes, operand.strides, sizes[missing:], strict=True)
    return (0,) * missing + tuple(0 if size == 1 and wanted != 1 else stride for size, stride, wanted in own)


def alignment(*numbers: int) -> int:
    """Return the largest power of two up to 16 that divides all numbers, which a kernel may assume of offsets in
    elements."""
    divisor = math.gcd(LOAD_BYTES, *numbers)
    return divisor & -divisor


def power_of_two(number: int) -> int:
    """Return the smallest power of two >= number."""
    return 1 << max(number - 1, 0).bit_length()


def tile_rows(most: int, count: int) -> int:
    """Return the number of rows of a tile: ``most`` for any ``count``, since each tile size is a separate compilation.

    In the interpreter, which does not compile and pays for every element of a tile, it is at most the next power of two
    of ``count``.
    """
    return min(most, power_of_two(count)) if INTERPRETED else most


def noise_tile(rows: int, features: int) -> tuple[int, int]:
    """Return the rows and features of a tile of noise."""
    block = min(max(power_of_two(features), 4), 64)
    return tile_rows((4096 if INTERPRETED else 512) // block, rows), block


def samples_strides(samples: Tensor | None) -> tuple[int | None, int | None]:
    """Return the strides of the indices of samples, along samples and observations.

    They are passed as two arguments, since Triton always specializes on numbers in a tuple, and these change with the
    batch.
    """
    return (None, None) if samples is None else (samples.stride(0), samples.stride(1))


def scalar(dtype: torch.dtype) -> tl.dtype:
    """Return Triton's dtype for an accumulation dtype of torch."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def device_of(tensor: Tensor) -> AbstractContextManager[dict[str, bool]]:
    """Return a context in which the tensor's device is current, so that kernels run on its current stream.

    It gives the options that launches have on this device.
    """
    if tensor.device.type != "cuda":
        return nullcontext({})
    if tensor.device.index == torch.cuda.current_device():
        return nullcontext(_overlap(tensor.device))
    return _made_current(tensor.device)


@contextmanager
def _made_current(device: torch.device) -> Iterator[dict[str, bool]]:
    with torch.cuda.device(device):
        yield _overlap(device)


@lru_cache
def _overlap(device: torch.device) -> dict[str, bool]:
    """Return the option by which a launch begins before the kernel ahead of it has ended (programmatic dependent
    launch), where the device can do so: kernels wait in ``overlap.begin_kernel``."""
    able = torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (9, 0)
    return {"launch_pdl": True} if able and not INTERPRETED else {}


def bits(number: float | Tensor) -> int:
    """Return the bits of a float64, from which ``double`` makes it again in a kernel."""
    return struct.unpack("<q", struct.pack("<d", float(number)))[0]
