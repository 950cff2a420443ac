"""The fused losses: log-weights in one launch, weights and loss in another, all gradients in a third.

Reductions run in double, and in the same order in every call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .columns import load_samples, log_mean, normalizer, totals
from .density import Density
from .density_backward import log_prob_backward
from .density_forward import log_prob
from .elementary import exp
from .launch import OPTIONS, device_of, scalar, tile_rows
from .memory import store
from .overlap import begin_kernel

SAMPLES, COLUMNS = 16, 128
"""Log-weights that a program holds at a time. At most COLUMNS observations need only one program, which writes the
loss."""


@triton.jit(do_not_specialize=["samples", "columns", "observations"])
def weights_kernel(
    weights,
    losses,
    samples,
    columns,
    observations,
    REDUCED: tl.constexpr,
    ACC: tl.constexpr,
    SAMPLES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Replace log-weights (samples, columns) by normalized weights in place, and write minus the bounds, or if REDUCED
    their sum over the program's columns, divided by ``observations``."""
    begin_kernel()
    column = tl.program_id(0).to(columns.dtype) * COLUMNS + tl.arange(0, COLUMNS)
    present = column < columns
    offset = column.to(tl.int64)
    shift, total = totals(weights, offset, columns, samples, present, ACC, SAMPLES, COLUMNS)
    bound = log_mean(shift, total, samples)
    if REDUCED:
        share = tl.sum(tl.where(present, -bound, 0.0), 0) / observations.to(tl.float64)
        tl.store(losses + tl.program_id(0), share.to(losses.dtype.element_ty))
    else:
        store(losses + column, -bound, present)
    scale = normalizer(total)
    for first in range(0, samples, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        tile = load_samples(weights, offset, columns, sample, samples, present, ACC)
        normalized = exp(tile - shift[None, :]).to(tl.float64) * scale[None, :]
        address = weights + (offset[None, :] + sample.to(tl.int64)[:, None] * columns)
        store(address, normalized, (sample < samples)[:, None] & present[None, :])


def iwae_loss(
    likelihood: Density, parameters: Sequence[Tensor], log_ratio: Tensor, mask: Tensor | None, reduction: str
) -> tuple[Tensor, Tensor]:
    """Return the reduced loss, and the normalized weights that its gradient needs."""
    weights = log_prob(likelihood, parameters, mask, addend=log_ratio)
    observations = math.prod(weights.shape[1:])
    reduced = reduction != "none"
    programs = triton.cdiv(observations, COLUMNS)
    # With one program its part is the loss itself, not a view: a user may change it in place.
    shape = weights.shape[1:] if not reduced else () if programs == 1 else (programs,)
    losses = weights.new_empty(shape, dtype=torch.float64 if reduced and programs > 1 else weights.dtype)
    with device_of(weights) as options:
        weights_kernel[(programs,)](
            weights,
            losses,
            len(weights),
            observations,
            observations if reduction == "mean" else 1,
            REDUCED=reduced,
            ACC=scalar(weights.dtype),
            SAMPLES=tile_rows(SAMPLES, len(weights)),
            COLUMNS=tile_rows(COLUMNS, observations),
            **OPTIONS,
            **options,
        )
    if not reduced:
        return losses, weights
    if programs == 0:  # as in torch, the mean over no observations is NaN and the sum is 0
        return weights.new_full((), math.nan if reduction == "mean" else 0.0), weights
    return losses if programs == 1 else losses.sum().to(weights.dtype), weights


def iwae_loss_backward(
    likelihood: Density,
    grad: Tensor,
    weights: Tensor,
    parameters: Sequence[Tensor],
    mask: Tensor | None,
    reduction: str,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Return the gradients of the needed parameters, then of the log-ratio (in the dtype of the weights)."""
    weights = weights.contiguous()  # the forward pass returns them contiguous, but vmap passes slices
    grad_log_ratio = torch.empty_like(weights)
    observations = math.prod(weights.shape[1:]) if reduction == "mean" else 1
    gradients = log_prob_backward(
        likelihood, grad, parameters, mask, needs, weights, observations, coefficients=grad_log_ratio
    )
    return [*gradients, grad_log_ratio]
