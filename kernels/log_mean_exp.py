"""logsumexp over an axis minus log k; its gradient is the upstream one times the normalized weights."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..checks import accumulation_dtype
from .columns import load_samples, log_mean, normalizer, totals
from .elementary import exp
from .launch import OPTIONS, Rows, alignment, broadcast_strides, device_of, layout, rows, scalar, tile_rows
from .memory import multiple, row_offset, store

TILE = 2048
"""Log-weights that a program holds at a time."""

COLUMNS, COLUMNS_OF_SMALL_CALLS, SMALL_CALL = 32, 8, 4096
"""Columns per program, adjacent in memory: enough to fill a memory transaction, or fewer in small calls, which would
otherwise have few programs; and the number of columns below which a call is small."""


@triton.jit(do_not_specialize=["samples", "columns"])
def log_mean_exp_kernel(
    bound,
    log_weights,
    samples,
    columns,
    inner_sizes,
    strides,
    sample_stride,
    ACC: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    SAMPLES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    columns = multiple(columns, ALIGNMENT)
    sample_stride = multiple(sample_stride, ALIGNMENT)
    column = tl.program_id(0).to(columns.dtype) * COLUMNS + tl.arange(0, COLUMNS)
    present = column < columns
    offset = row_offset(column, inner_sizes, strides[0], 1)
    shift, total = totals(log_weights, offset, sample_stride, samples, present, ACC, SAMPLES, COLUMNS)
    store(bound + column, log_mean(shift, total, samples), present)


@triton.jit(do_not_specialize=["samples", "columns"])
def log_mean_exp_gradient_kernel(
    gradient,
    grad,
    log_weights,
    samples,
    columns,
    inner_sizes,
    strides,
    sample_stride,
    gradient_sample_stride,
    ACC: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    SAMPLES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    columns = multiple(columns, ALIGNMENT)
    sample_stride = multiple(sample_stride, ALIGNMENT)
    column = tl.program_id(0).to(columns.dtype) * COLUMNS + tl.arange(0, COLUMNS)
    present = column < columns
    gradient_sample_stride = multiple(gradient_sample_stride, ALIGNMENT)
    offset = row_offset(column, inner_sizes, strides[0], 1)
    shift, total = totals(log_weights, offset, sample_stride, samples, present, ACC, SAMPLES, COLUMNS)
    incoming = tl.load(grad + row_offset(column, inner_sizes, strides[1], 1), present, other=0.0)
    scale = (incoming.to(tl.float64) * normalizer(total)).to(ACC)
    scale = tl.where(total == 0.0, 0.0, scale)
    gradient_offset = row_offset(column, inner_sizes, strides[2], 1)
    for first in range(0, samples, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        tile = load_samples(log_weights, offset, sample_stride, sample, samples, present, ACC)
        weighted = scale[None, :] * exp(tile - shift[None, :])
        weighted = tl.where(incoming[None, :] == 0.0, 0.0, weighted)  # also in a column with NaN
        address = gradient + (gradient_offset[None, :] + sample.to(tl.int64)[:, None] * gradient_sample_stride)
        store(address, weighted, (sample < samples)[:, None] & present[None, :])


def log_mean_exp(log_weights: Tensor, dim: int) -> Tensor:
    samples_first = log_weights.movedim(dim, 0)
    bound = samples_first.new_empty(samples_first.shape[1:], dtype=accumulation_dtype(log_weights))
    walk = _columns(samples_first)
    columns = _columns_a_program(walk.count)
    with device_of(log_weights):
        log_mean_exp_kernel[(triton.cdiv(walk.count, columns),)](
            bound,
            log_weights,
            len(samples_first),
            walk.count,
            walk.inner_sizes,
            walk.strides,
            samples_first.stride(0),
            ACC=scalar(bound.dtype),
            ALIGNMENT=_alignment(walk, samples_first),
            SAMPLES=tile_rows(TILE // columns, len(samples_first)),
            COLUMNS=columns,
            **OPTIONS,
        )
    return bound


def log_mean_exp_backward(grad: Tensor, log_weights: Tensor, dim: int) -> Tensor:
    samples_first = log_weights.movedim(dim, 0)
    gradient = log_weights.new_empty(log_weights.shape)
    gradient_samples_first = gradient.movedim(dim, 0)
    walk = _columns(samples_first, grad, gradient_samples_first[0])
    columns = _columns_a_program(walk.count)
    with device_of(log_weights):
        log_mean_exp_gradient_kernel[(triton.cdiv(walk.count, columns),)](
            gradient,
            grad,
            log_weights,
            len(samples_first),
            walk.count,
            walk.inner_sizes,
            walk.strides,
            samples_first.stride(0),
            gradient_samples_first.stride(0),
            ACC=scalar(accumulation_dtype(log_weights)),
            ALIGNMENT=_alignment(walk, samples_first, gradient_samples_first),
            SAMPLES=tile_rows(TILE // columns, len(samples_first)),
            COLUMNS=columns,
            **OPTIONS,
        )
    return gradient


def _columns(samples_first: Tensor, *others: Tensor) -> Rows:
    """Return the columns of (k, ...), with their offsets in it and in tensors of shape (...)."""
    sizes = tuple(samples_first.shape[1:])
    return rows(sizes, (samples_first.stride()[1:], *(broadcast_strides(layout(t), sizes) for t in others)))


def _alignment(walk: Rows, *samples_first: Tensor) -> int:
    """Return a power of two that divides the number of columns and the strides of the samples, for wide loads of
    adjacent columns.

    It is 1 for small calls, since each alignment is a separate compilation.
    """
    if walk.count < SMALL_CALL or walk.inner_sizes:
        return 1
    return alignment(walk.count, *(t.stride(0) for t in samples_first))


def _columns_a_program(columns: int) -> int:
    return tile_rows(COLUMNS if columns >= SMALL_CALL else COLUMNS_OF_SMALL_CALLS, columns)
