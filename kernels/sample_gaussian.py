"""Reparameterized samples z = m + s eps with log p(z) - log q(z | x) = 1/2 sum [eps^2 - z^2 + 2 log s], p = N(0, I).

Nothing of the size of z is saved for the backward pass, which generates the noise again.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..checks import accumulation_dtype
from .elementary import exact_exp
from .launch import OPTIONS, alignment, device_of, noise_tile, samples_strides, scalar
from .memory import multiple, store
from .noise import VARYING, sample_indices, standard_normals
from .overlap import begin_kernel
from .sums import kahan, over_rows


@triton.jit(do_not_specialize=["rows", "observations", *VARYING])
def sample_gaussian_kernel(
    z,
    log_ratio,
    mean,
    log_std,
    seed,
    samples,
    rows,
    observations,
    features,
    sample_offset,
    observation_offset,
    stream,
    sample_stride,
    observation_stride,
    mean_strides,
    log_std_strides,
    ACC: tl.constexpr,
    FEATURE_ALIGNMENT: tl.constexpr,
    MEAN_ALIGNMENT: tl.constexpr,
    LOG_STD_ALIGNMENT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    begin_kernel()
    row = tl.program_id(0).to(rows.dtype) * ROWS + tl.arange(0, ROWS)
    present = row < rows
    features = multiple(features, FEATURE_ALIGNMENT)
    observation = row % observations
    mean_row = (observation.to(tl.int64) * multiple(mean_strides[0], MEAN_ALIGNMENT))[:, None]
    log_std_row = (observation.to(tl.int64) * multiple(log_std_strides[0], LOG_STD_ALIGNMENT))[:, None]
    key = tl.load(seed)
    total = tl.zeros((ROWS,), tl.float64)
    for block in range(tl.cdiv(features, BLOCK)):
        feature = block * BLOCK + tl.arange(0, BLOCK)
        inside = present[:, None] & (feature < features)[None, :]
        m = tl.load(mean + mean_row + feature[None, :] * mean_strides[1], inside, other=0.0).to(ACC)
        log_s = tl.load(log_std + log_std_row + feature[None, :] * log_std_strides[1], inside, other=0.0).to(ACC)
        eps = standard_normals(
            key,
            sample_indices(
                samples,
                sample_stride,
                observation_stride,
                (row // observations).to(tl.int64),
                observation.to(tl.int64),
                sample_offset,
                present,
            ),
            observation.to(tl.int64) + observation_offset,
            stream.to(tl.uint32),
            block,
            ACC,
            BLOCK,
        )
        sample = m + exact_exp(log_s) * eps
        tl.store(z + (row.to(tl.int64) * features)[:, None] + feature[None, :], sample, inside)
        terms = tl.where(inside, 0.5 * (eps * eps - sample * sample) + log_s, 0.0)
        total += tl.sum(terms, 1).to(tl.float64)
    store(log_ratio + row, total, present)


@triton.jit(
    do_not_specialize=["count", "sample_offset", "observation_offset", "stream", "sample_stride", "observation_stride"]
)
def sample_gaussian_gradient_kernel(
    grad_mean,
    grad_log_std,
    grad_z,
    grad_log_ratio,
    mean,
    log_std,
    seed,
    samples,
    count,
    features,
    sample_offset,
    observation_offset,
    stream,
    sample_stride,
    observation_stride,
    grad_z_strides,
    grad_log_ratio_strides,
    mean_strides,
    log_std_strides,
    PATH_ONLY: tl.constexpr,
    ACC: tl.constexpr,
    FEATURE_ALIGNMENT: tl.constexpr,
    GRAD_Z_ALIGNMENT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the gradients of mean and log_std; a program handles one observation and one block of features, and sums
    over the samples."""
    begin_kernel()
    blocks = tl.cdiv(features, BLOCK)
    features = multiple(features, FEATURE_ALIGNMENT)
    block = tl.program_id(0) % blocks
    observation = (tl.program_id(0) // blocks).to(tl.int64)
    feature = block * BLOCK + tl.arange(0, BLOCK)
    inside = feature < features
    m = tl.load(mean + observation * mean_strides[0] + feature * mean_strides[1], inside, other=0.0).to(ACC)[None, :]
    log_s = tl.load(log_std + observation * log_std_strides[0] + feature * log_std_strides[1], inside, other=0.0)
    s = exact_exp(log_s.to(ACC))[None, :]
    key = tl.load(seed)
    mean_sum = tl.zeros((ROWS, BLOCK), ACC)
    mean_error = tl.zeros((ROWS, BLOCK), ACC)
    log_std_sum = tl.zeros((ROWS, BLOCK), ACC)
    log_std_error = tl.zeros((ROWS, BLOCK), ACC)
    for first in range(0, count, ROWS):
        sample = first + tl.arange(0, ROWS)
        present = sample < count
        row = sample.to(tl.int64)
        eps = standard_normals(
            key,
            sample_indices(samples, sample_stride, observation_stride, row, observation, sample_offset, present),
            observation + observation_offset + tl.zeros_like(row),
            stream.to(tl.uint32),
            block,
            ACC,
            BLOCK,
        )
        z = m + s * eps
        at_z = tl.zeros((ROWS, BLOCK), ACC)  # the gradient with respect to z
        of_mean = tl.zeros((ROWS, BLOCK), ACC)  # the gradient with respect to m inside log q, not through z
        of_log_std = tl.zeros((ROWS, BLOCK), ACC)  # the same for log s
        if grad_z is not None:
            part = (row * multiple(grad_z_strides[0], GRAD_Z_ALIGNMENT))[:, None]
            part += observation * multiple(grad_z_strides[1], GRAD_Z_ALIGNMENT)
            address = grad_z + part + feature[None, :] * grad_z_strides[2]
            at_z += tl.load(address, present[:, None] & inside[None, :], other=0.0)
        if grad_log_ratio is not None:
            address = grad_log_ratio + row * grad_log_ratio_strides[0] + observation * grad_log_ratio_strides[1]
            incoming = tl.load(address, present, other=0.0)[:, None]
            # An upstream gradient of zero must give zero, also if z overflows: 0 * inf would be NaN.
            if PATH_ONLY:
                # -log q is a function of z alone, with derivative eps / s. The gradient of log s is s eps times that:
                # eps^2, computed without 1 / s, which may overflow.
                of_mean += tl.where(incoming == 0.0, 0.0, incoming * (eps / s))
                of_log_std += incoming * (eps * eps)
            else:  # eps does not depend on q's parameters: of -log q only log s contributes
                of_log_std += incoming
            at_z += tl.where(incoming == 0.0, 0.0, incoming * -z)
        mean_sum, mean_error = kahan(mean_sum, mean_error, at_z + of_mean)
        of_step = tl.where(at_z == 0.0, 0.0, at_z * (s * eps))  # 0 * inf would be NaN
        log_std_sum, log_std_error = kahan(log_std_sum, log_std_error, of_step + of_log_std)
    out = observation * features + feature
    store(grad_mean + out, over_rows(mean_sum, mean_error), inside)
    store(grad_log_std + out, over_rows(log_std_sum, log_std_error), inside)


def sample_gaussian(
    mean: Tensor,
    log_std: Tensor,
    seed: Tensor,
    samples: Tensor | None,
    num_samples: int,
    sample_offset: int,
    observation_offset: int,
    stream: int,
) -> tuple[Tensor, Tensor]:
    observations, features = mean.shape
    dtype = accumulation_dtype(mean, log_std)
    z = mean.new_empty((num_samples, observations, features), dtype=dtype)
    log_ratio = mean.new_empty((num_samples, observations), dtype=dtype)
    rows = num_samples * observations
    rows_a_program, block = noise_tile(rows, features)
    with device_of(mean) as options:
        sample_gaussian_kernel[(triton.cdiv(rows, rows_a_program),)](
            z,
            log_ratio,
            mean,
            log_std,
            seed,
            samples,
            rows,
            observations,
            features,
            sample_offset,
            observation_offset,
            stream,
            *samples_strides(samples),
            mean.stride(),
            log_std.stride(),
            ACC=scalar(dtype),
            FEATURE_ALIGNMENT=alignment(features),
            MEAN_ALIGNMENT=alignment(mean.stride(0)),
            LOG_STD_ALIGNMENT=alignment(log_std.stride(0)),
            ROWS=rows_a_program,
            BLOCK=block,
            **OPTIONS,
            **options,
        )
    return z, log_ratio


def sample_gaussian_backward(
    grad_z: Tensor | None,
    grad_log_ratio: Tensor | None,
    mean: Tensor,
    log_std: Tensor,
    seed: Tensor,
    samples: Tensor | None,
    num_samples: int,
    sample_offset: int,
    observation_offset: int,
    stream: int,
    path_only: bool,
) -> tuple[Tensor, Tensor]:
    observations, features = mean.shape
    grad_mean, grad_log_std = mean.new_empty(mean.shape), log_std.new_empty(log_std.shape)
    grad_z_strides = (0, 0, 0) if grad_z is None else grad_z.stride()
    samples_a_tile, block = noise_tile(num_samples, features)
    with device_of(mean) as options:
        sample_gaussian_gradient_kernel[(observations * triton.cdiv(features, block),)](
            grad_mean,
            grad_log_std,
            grad_z,
            grad_log_ratio,
            mean,
            log_std,
            seed,
            samples,
            num_samples,
            features,
            sample_offset,
            observation_offset,
            stream,
            *samples_strides(samples),
            grad_z_strides,
            (0, 0) if grad_log_ratio is None else grad_log_ratio.stride(),
            mean.stride(),
            log_std.stride(),
            PATH_ONLY=path_only,
            ACC=scalar(accumulation_dtype(mean, log_std)),
            FEATURE_ALIGNMENT=alignment(features),
            GRAD_Z_ALIGNMENT=alignment(*grad_z_strides[:2]),
            ROWS=samples_a_tile,
            BLOCK=block,
            **OPTIONS,
            **options,
        )
    return grad_mean, grad_log_std
