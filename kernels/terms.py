"""Log-weights as sums of terms, the loss that is reduced over observations, and gradients times an upstream one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .columns import columns_of
from .launch import INTERPRETED, OPTIONS, Rows, bits, device_of, power_of_two, scalar, tile_rows
from .memory import double, store

OBSERVATIONS = 128
"""The observations that one program takes, so that it can write their loss. More than these are divided among
programs, whose parts torch adds."""

FEW, TILE, BLOCK = 32, 2048, 1024
"""The observations up to which a program has room for more samples; the log-weights that it holds at a time; and the
elements of a program of products."""


SAMPLE_STRIDES = ("first_stride", "second_stride", "third_stride")
"""Arguments for the strides of at most three terms along the samples, on which kernels are not specialized, as on those
in a tuple: they change with the batch."""


@triton.jit
def load_terms(terms, offsets, strides, sample, inside, kl_weight, ACC: tl.constexpr):
    """Load a tile (samples, columns) of log-weights, terms[0] + kl_weight (terms[1] + ...), -inf outside."""
    row = sample.to(tl.int64)[:, None]
    tile = tl.load(terms[0] + (offsets[0][None, :] + row * strides[0]), inside, other=0.0).to(ACC)
    if len(terms) > 1:
        rest = tl.load(terms[1] + (offsets[1][None, :] + row * strides[1]), inside, other=0.0).to(ACC)
        for i in tl.static_range(2, len(terms)):
            rest += tl.load(terms[i] + (offsets[i][None, :] + row * strides[i]), inside, other=0.0).to(ACC)
        tile += kl_weight * rest
    return tl.where(inside, tile, float("-inf"))


@triton.jit
def store_loss(losses, bound, column, columns, share, REDUCED: tl.constexpr):
    """Write minus the bounds, or if REDUCED their sum over the columns of the program times ``share``."""
    present = column < columns
    if REDUCED:
        part = tl.sum(tl.where(present, -bound, 0.0), 0) * share
        tl.store(losses + tl.program_id(0), part.to(losses.dtype.element_ty))
    else:
        store(losses + column, -bound, present)


def columns_of_terms(terms: Sequence[Tensor]) -> tuple[Rows, tuple[int, ...]]:
    """Return the columns of at most three terms (k, ...) with their offsets in each, and the strides of the samples."""
    strides = [term.stride(0) for term in terms]
    missing = [0] * (len(SAMPLE_STRIDES) - len(terms))
    return columns_of(terms[0], *(term[0] for term in terms[1:])), (*strides, *missing)


def observations_a_program(columns: int) -> int:
    return tile_rows(FEW if columns <= FEW else OBSERVATIONS, columns)


def tile_of(columns: int, samples: int) -> int:
    """Return the samples that a program holds at a time: fewer in wide tiles, so that no register is spilled.

    k hardly changes while a model trains, so a compilation for it pays: 50 samples in a larger tile would leave threads
    without work.
    """
    tile = TILE if columns <= FEW else TILE // 2
    return min(tile // columns, power_of_two(samples))


def warps_of(columns: int) -> int:
    """Return the warps of a program: more for wide tiles, whose addresses would not fit the registers of fewer."""
    return 8 if columns <= FEW else 16


class Losses:
    """The memory in which the programs of a launch write a loss: the loss itself if one program has all of it."""

    def __init__(self, loss: Tensor, observations: int, programs: int, reduction: str) -> None:
        self.loss: Tensor = loss
        self.reduction: str = reduction
        self.is_reduced: bool = reduction != "none"
        self.share: int = bits(1.0 / max(observations, 1) if reduction == "mean" else 1.0)
        self.programs: int = programs
        several = self.is_reduced and programs > 1
        self.parts: Tensor = loss.new_empty(programs, dtype=torch.float64) if several else loss

    def finish(self) -> Tensor:
        """Return the loss: as in torch, the mean over no observations is NaN and the sum is 0."""
        if not self.is_reduced:
            return self.loss
        if not self.programs:
            return self.loss.fill_(math.nan if self.reduction == "mean" else 0.0)
        return self.loss if self.parts is self.loss else self.loss.copy_(self.parts.sum())


@triton.jit(do_not_specialize=["size", "columns"])
def scaled_gradients_kernel(
    results, scales, grad, size, columns, grad_stride, factors, ACC: tl.constexpr, BLOCK: tl.constexpr
):
    """Write scales * factor * grad, and 0 where grad is 0."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    incoming = tl.load(grad + (at % columns) * grad_stride, inside, other=0.0).to(ACC)
    for i in tl.static_range(len(scales)):
        scaled = tl.load(scales[i] + at, inside, other=0.0).to(ACC) * (incoming * double(factors[i]).to(ACC))
        store(results[i] + at, tl.where(incoming == 0.0, 0.0, scaled), inside)


def scaled_gradients(scales: Sequence[Tensor], grad: Tensor, factors: Sequence[float]) -> list[Tensor]:
    """Return each scale times its factor and the upstream gradient, a number or one entry per column."""
    results = [scale.new_empty(scale.shape) for scale in scales]
    size, columns = scales[0].numel(), scales[0].shape[1:].numel()
    grad = grad.reshape(-1) if grad.dim() else grad
    if size:
        block = 2**16 if INTERPRETED else BLOCK
        with device_of(grad):
            scaled_gradients_kernel[(triton.cdiv(size, block),)](
                tuple(results), tuple(scales), grad, size, columns, grad.stride(0) if grad.dim() else 0,
                tuple(bits(factor) for factor in factors), ACC=scalar(scales[0].dtype), BLOCK=block, **OPTIONS,
            )  # fmt: skip
    return results
