"""The interface between densities and the kernels that sum and differentiate them, and the loads of their tiles."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .launch import INTERPRETED, LOAD_BYTES, OPTIONS, Layout, power_of_two

# In the interpreter a program costs milliseconds and an element little, so it uses few, large programs.
TILE_BYTES, LONG_TILE_BYTES, WIDEST_BLOCK, MAX_STEPS = (65536, 65536, 256, 2) if INTERPRETED else (8192, 1024, 256, 8)


class Density(NamedTuple):
    """A density, defined in its op's file by two functions of tiles of the parameters and constants."""

    accumulate: Any
    """Function accumulate(tiles, linear, factors), which adds the terms of a tile per parameter to a running sum and,
    if a logarithm can be postponed, multiplies a running product by factors between 1 and 2."""
    gradients: Any
    """Function gradients(tiles), which returns d log p / d each parameter."""
    neutral: tuple[float, ...]
    """Values that replace entries outside or masked, one number per parameter, representable in every dtype."""
    constant: float = 0.0
    """Constant term per observed feature."""
    has_factors: bool = False
    """True if ``accumulate`` uses ``factors``."""
    is_long: bool = False
    """True if the formulas take hundreds of instructions: programs then hold fewer numbers, and do not unroll loops."""


@triton.jit
def load_tiles(
    pointers, offsets, strides, feature, inside, counted, SELECT: tl.constexpr, NEUTRAL: tl.constexpr, ACC: tl.constexpr
):
    """Load a tile per parameter in the accumulation dtype; entries that are not counted are set to the neutral value.

    All entries ``inside`` are loaded, including masked ones: a load that depends on data is not vectorized.
    """
    tiles = ()
    for p in tl.static_range(len(pointers)):
        address = pointers[p] + (offsets[p][:, None] + feature[None, :] * strides[p])
        tile = tl.load(address, inside, other=NEUTRAL[p]).to(ACC)
        if SELECT:
            tile = tl.where(counted, tile, NEUTRAL[p])
        tiles = tiles + (tile,)
    return tiles


@triton.jit
def load_mask(pointer, offset, stride, feature, inside):
    return tl.load(pointer + (offset[:, None] + feature[None, :] * stride), inside, other=0) != 0


def block_of_features(features: int, parameters: tuple[Layout, ...]) -> int:
    """Return the features of a row per load of a warp, with the widest load that the narrowest dtype can fill."""
    width = LOAD_BYTES // min(p.itemsize for p in parameters)
    return min(power_of_two(features), 32 * width, WIDEST_BLOCK)


def steps_of_blocks(density: Density, features: int, block: int) -> int:
    """Return the number of blocks of a row per iteration of a program.

    At most MAX_STEPS, since the running product gets one factor per block, and such that few blocks are empty.
    """
    if density.is_long:
        return 1
    rounds = max(triton.cdiv(features, MAX_STEPS * block), 1)
    return max(triton.cdiv(features, rounds * block), 1)


def rows_of_tile(density: Density, itemsize: int, features: int) -> int:
    """Return the number of rows of ``features`` entries that a program holds at a time, at least one per warp."""
    tile_bytes = LONG_TILE_BYTES if density.is_long else TILE_BYTES
    return max(tile_bytes // (itemsize * features), OPTIONS["num_warps"])
