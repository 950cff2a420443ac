"""64-bit offsets in elements with known alignment, stores in the dtype of the memory, and float64 arguments."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def multiple(number, ALIGNMENT: tl.constexpr):
    """Return the number unchanged, but so that the compiler knows that ALIGNMENT divides it (the caller guarantees
    it)."""
    return (number // ALIGNMENT) * ALIGNMENT


@triton.jit
def row_offset(row, inner_sizes, strides, ALIGNMENT: tl.constexpr):
    """Return the offsets of rows, numbered in memory order over axes with these strides (launch.Rows)."""
    offset = tl.zeros_like(row).to(tl.int64)
    for i in tl.static_range(len(inner_sizes)):
        size = inner_sizes[len(inner_sizes) - 1 - i]
        offset += (row % size).to(tl.int64) * multiple(strides[len(inner_sizes) - i], ALIGNMENT)
        row = row // size
    return offset + row.to(tl.int64) * multiple(strides[0], ALIGNMENT)


@triton.jit
def row_offsets(row, inner_sizes, strides, ALIGNMENTS: tl.constexpr):
    """Return the offsets of rows in each of several operands."""
    offsets = ()
    for p in tl.static_range(len(strides)):
        offsets = offsets + (row_offset(row, inner_sizes, strides[p], ALIGNMENTS[p]),)
    return offsets


@triton.jit
def added(some, others):
    """Return the elementwise sums of two tuples of offsets."""
    offsets = ()
    for p in tl.static_range(len(some)):
        offsets = offsets + (some[p] + others[p],)
    return offsets


@triton.jit
def store(address, number, inside):
    """Store numbers of the accumulation dtype in the dtype of the memory."""
    dtype: tl.constexpr = address.dtype.element_ty
    if dtype.primitive_bitwidth == 16:
        number = number.to(tl.float32)  # not every GPU can round float64 to 16 bits
    tl.store(address, number.to(dtype), inside)


@triton.jit
def double(bits):
    """Return the float64 with these bits: Triton would pass a number as float32."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True)
