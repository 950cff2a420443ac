"""What a density is to the kernels that sum it over the last axis and differentiate it, and how they read its tiles."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .launch import INTERPRETED, LOAD_BYTES, OPTIONS, Layout, power_of_two


class Density(NamedTuple):
    """Given in its op's file, as two functions of tiles of the parameters and some numbers."""

    accumulate: Any
    """accumulate(tiles, linear, factors) adds a tile of each parameter to a running sum and, where a logarithm can be
    put off, to a running product of factors between 1 and 2."""
    gradients: Any
    """gradients(tiles) is d log p / d each parameter."""
    neutral: tuple[float, ...]
    """What stands in for entries that do not count: one number a parameter, representable in every dtype."""
    constant: float = 0.0
    """What each observed feature adds besides."""
    has_factors: bool = False


@triton.jit
def load_tiles(
    pointers, offsets, strides, feature, inside, counted, SELECT: tl.constexpr, NEUTRAL: tl.constexpr, ACC: tl.constexpr
):
    """A tile of each parameter in the accumulation dtype; entries that are not counted are neutral.

    What is ``inside`` is loaded, also where a mask does not count it: a load that depends on data is not vectorised.
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


# A program in the interpreter costs milliseconds and an element little: few, large programs there.
TILE_BYTES, WIDEST_BLOCK, MAX_STEPS = (65536, 256, 2) if INTERPRETED else (8192, 256, 8)


def block_of_features(features: int, parameters: tuple[Layout, ...]) -> int:
    """Features of a row in one load of a warp, as wide a load as the narrowest dtype can fill."""
    width = LOAD_BYTES // min(p.itemsize for p in parameters)
    return min(power_of_two(features), 32 * width, WIDEST_BLOCK)


def steps_of_blocks(features: int, block: int) -> int:
    """How many blocks of a row a program takes one by one: at most MAX_STEPS, since a product has a factor from each,
    and few that are empty."""
    rounds = max(triton.cdiv(features, MAX_STEPS * block), 1)
    return max(triton.cdiv(features, rounds * block), 1)


def rows_of_tile(itemsize: int, features: int) -> int:
    """How many rows of so many features a program holds at a time, at least one a warp."""
    return max(TILE_BYTES // (itemsize * features), OPTIONS["num_warps"])
