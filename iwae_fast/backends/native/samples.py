"""Noise, and samples made of it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..marshal import accumulation_dtype, operand, optional_operand
from .densities import gradient_like
from .device import Native


def standard_normal(
    native: Native,
    seed: Tensor,
    samples: Tensor | None,
    shape: list[int],
    sample_offset: int,
    observation_offset: int,
    stream: int,
    dtype: torch.dtype,
) -> Tensor:
    noise = seed.new_empty(shape, dtype=dtype)
    native.kernels.standard_normal(
        dtype == torch.float64,
        seed.data_ptr(),
        optional_operand(samples),
        tuple(shape),
        (sample_offset, observation_offset, stream),
        noise.data_ptr(),
        native.place(seed),
    )
    return noise


def sample_gaussian(
    native: Native,
    mean: Tensor,
    log_std: Tensor,
    seed: Tensor,
    samples: Tensor | None,
    num_samples: int,
    sample_offset: int,
    observation_offset: int,
    stream: int,
) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(mean, log_std)
    shape = (num_samples, *mean.shape)
    z, log_ratio = mean.new_empty(shape, dtype=dtype), mean.new_empty(shape[:2], dtype=dtype)
    native.kernels.sample_gaussian(
        dtype == torch.float64,
        seed.data_ptr(),
        optional_operand(samples),
        shape,
        (sample_offset, observation_offset, stream),
        operand(mean),
        operand(log_std),
        z.data_ptr(),
        log_ratio.data_ptr(),
        native.place(seed),
    )
    return z, log_ratio


def sample_gaussian_backward(
    native: Native,
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
    grad_mean, grad_log_std = gradient_like(mean), gradient_like(log_std)
    native.kernels.sample_gaussian_backward(
        accumulation_dtype(mean, log_std) == torch.float64,
        seed.data_ptr(),
        optional_operand(samples),
        (num_samples, *mean.shape),
        (sample_offset, observation_offset, stream),
        operand(mean),
        operand(log_std),
        optional_operand(grad_z),
        optional_operand(grad_log_ratio),
        path_only,
        operand(grad_mean),
        operand(grad_log_std),
        native.place(seed),
    )
    return grad_mean, grad_log_std
