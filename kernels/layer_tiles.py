"""Shared parts of the kernels of dense layers: tiles of results, loads, and the parameters of a launch.

Layers of variational autoencoders are small: at 20 rows a product of 784 to 200 columns has 4000 results. Tiles are
therefore small, and the four warps of a program divide the sum of a result among themselves, instead of programs whose
partial sums a further launch would add. The warps' parts are added in a fixed order, so every run gives the same bits.

Layers that share an input, such as the heads of an encoder, are one launch: each program finds out which layer its tile
belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import INTERPRETED, LOAD_BYTES, Layout, alignment, scalar
from .memory import multiple

Shape = tuple[int, int]


class Tile(NamedTuple):
    """A tile of results and the steps in which its sums are computed."""

    rows: int
    columns: int
    inner: int
    """The terms of a sum that a part takes per step."""
    parts: int
    """The parts of a sum: 1 if all warps compute each step's product together, else one per warp."""
    stages: int
    """The steps whose loads are under way at a time."""
    least: int
    """The least number of programs for which this tile is chosen."""

    def programs(self, shapes: Sequence[Shape]) -> int:
        """Return the number of tiles of results of these shapes."""
        return sum(triton.cdiv(rows, self.rows) * triton.cdiv(columns, self.columns) for rows, columns in shapes)


# The first tile that gives enough programs for the 132 multiprocessors of an H100, or the last one. Chosen by counting
# programs and bytes and by the compiled code (no register is spilled); not by times, since none has run on a GPU.
TILES = (
    Tile(64, 64, 16, parts=1, stages=3, least=96),
    Tile(32, 64, 16, parts=4, stages=2, least=96),
    Tile(32, 32, 16, parts=4, stages=3, least=48),
    Tile(16, 16, 32, parts=4, stages=3, least=0),
)
WARPS = 4
ROWS_A_SPLIT, MOST_SPLITS = 2048, 16
"""The rows that one program sums for the gradients of weights and biases, until there are MOST_SPLITS such sums. 20
observations with 50 samples are one sum; larger batches take a second launch, which adds the sums in order."""
if INTERPRETED:  # few programs, and each of the ways
    TILES = (Tile(64, 64, 64, parts=1, stages=1, least=2), Tile(64, 64, 16, parts=4, stages=1, least=0))
    ROWS_A_SPLIT, MOST_SPLITS = 256, 3

VARYING = ["rows", "weight_programs", "rows_a_split"]


def tile_of(shapes: Sequence[Shape], splits: int = 1) -> Tile:
    """Return the tile for the results of a launch, of which each is summed in this many splits."""
    return next(tile for tile in TILES if tile.programs(shapes) * splits >= tile.least)


@triton.jit
def on_axis(index, AXIS: tl.constexpr, PARTS: tl.constexpr):
    """Return the positions of a tile's rows (AXIS 0) or columns (1), to be broadcast to the tile, or to one per
    part."""
    if PARTS == 1:
        return index[:, None] if AXIS == 0 else index[None, :]
    else:
        return index[None, :, None] if AXIS == 0 else index[None, None, :]


@triton.jit
def along_sum(AXIS: tl.constexpr, PARTS: tl.constexpr, INNER: tl.constexpr):
    """Return the positions of a step's terms along a sum, on this axis of a tile, or of the tile of each part."""
    if PARTS == 1:
        index = tl.arange(0, INNER)
        return index[:, None] if AXIS == 0 else index[None, :]
    else:
        index = tl.arange(0, PARTS)[:, None] * INNER + tl.arange(0, INNER)[None, :]
        return index[:, :, None] if AXIS == 0 else index[:, None, :]


@triton.jit
def zeros(ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr, ACC: tl.constexpr):
    return tl.zeros((ROWS, COLUMNS) if PARTS == 1 else (PARTS, ROWS, COLUMNS), ACC)


@triton.jit
def load_at(pointer, row, column, strides, inside, ALIGNMENTS: tl.constexpr):
    """Load elements of a matrix, 0 where not inside."""
    offset = row.to(tl.int64) * multiple(strides[0], ALIGNMENTS[0]) + column * multiple(strides[1], ALIGNMENTS[1])
    return tl.load(pointer + offset, inside, other=0.0)


@triton.jit
def of_layer(values, first, program):
    """Return the value of the layer whose tiles begin at the last entry of ``first`` that is not after the program."""
    found = values[0]
    for i in tl.static_range(1, len(values)):
        found = tl.where(program >= first[i], values[i], found)
    return found


@triton.jit
def pointer_of_layer(pointers, first, program, ALIGNED: tl.constexpr):
    """Return the pointer of the layer of a program; ALIGNED if all are to 16 bytes."""
    if len(pointers) == 1:
        return pointers[0]
    else:
        found = of_layer(pointers, first, program)
        return tl.multiple_of(found, 16) if ALIGNED else found


class Plan(NamedTuple):
    """The parameters of a launch except its tensors and the activation."""

    grid: tuple[int]
    numbers: tuple[Any, ...]
    """Arguments of the kernel from ``rows`` on."""
    constants: dict[str, Any]
    splits: int = 1


def constants(dtype: torch.dtype, precision: str, columns: Sequence[int], width: int, stages: int) -> dict[str, Any]:
    return {
        "PRECISION": precision,
        "ACC": scalar(dtype),
        "COLUMN_ALIGNMENT": alignment(*columns),
        "WIDTH_ALIGNMENT": alignment(width),
        "num_warps": WARPS,
        "num_stages": stages,
        "enable_fp_fusion": True,
    }


def alignments(*operands: Layout | None) -> tuple[int, int]:
    """Return powers of two that divide the strides of matrices, along rows and along columns."""
    strides = [(1, 1) if operand is None else operand.strides for operand in operands]
    rows, columns = zip(*strides, strict=True)
    return alignment(*rows), alignment(*columns)


def aligned(*tensors: Tensor | None) -> bool:
    """Return True if the tensors begin at multiples of 16 bytes, as those that torch allocates do."""
    return all(tensor is None or tensor.data_ptr() % LOAD_BYTES == 0 for tensor in tensors)


def of_one_layout(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return matrices of the same strides, copied if theirs differ."""
    first = matrices[0].stride()
    return [m if all(m.stride() == first for m in matrices) else m.contiguous() for m in matrices]
