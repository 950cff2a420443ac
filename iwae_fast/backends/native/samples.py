"""Noise, and Gaussian samples computed from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...checks import accumulation_dtype
from ..marshal import gradient_like, operand, optional_operand
from .base import Native


class Samples(Native):
    """Noise and samples on the extension's kernels."""

    def standard_normal(
        self,
        seed: Tensor,
        samples: Tensor | None,
        shape: Sequence[int],
        sample_offset: int,
        observation_offset: int,
        stream: int,
        dtype: torch.dtype,
    ) -> Tensor:
        noise = seed.new_empty(shape, dtype=dtype)
        self.run(
            self.kernels.standard_normal,
            seed,
            dtype == torch.float64,
            seed.data_ptr(),
            optional_operand(samples),
            tuple(shape),
            (sample_offset, observation_offset, stream),
            noise.data_ptr(),
        )
        return noise

    def sample_gaussian(
        self,
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
        self.run(
            self.kernels.sample_gaussian,
            seed,
            dtype == torch.float64,
            seed.data_ptr(),
            optional_operand(samples),
            shape,
            (sample_offset, observation_offset, stream),
            operand(mean),
            operand(log_std),
            z.data_ptr(),
            log_ratio.data_ptr(),
        )
        return z, log_ratio

    def sample_gaussian_backward(
        self,
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
        self.run(
            self.kernels.sample_gaussian_backward,
            seed,
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
        )
        return grad_mean, grad_log_std
