"""The draw of samples of z: the seed and the indices that determine their noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.samples import standard_normal


class Draw(NamedTuple):
    """Seed and indices of samples of z, which determine their noise."""

    seed: Tensor
    """int64 scalar on the model's device."""
    num_samples: int
    """k."""
    sample_offset: int = 0
    observation_offset: int = 0
    """Global indices of the first sample and observation, so that chunks and shards draw the same samples as the whole
    batch."""
    samples: Tensor | None = None
    """Index of each sample, (k, B) int64, in place of those from sample_offset on."""

    def noise(
        self,
        shape: Sequence[int],
        *,
        dtype: torch.dtype,
        device: torch.device,
        backend: str | None,
        stream: int = 0,
    ) -> Tensor:
        """Return standard normal noise of the stream, (k, *shape), for ``shape`` (rows, columns)."""
        rows, columns = shape
        return standard_normal(
            (self.num_samples, rows, columns),
            self.seed,
            sample_offset=self.sample_offset,
            observation_offset=self.observation_offset,
            sample_indices=self.samples,
            stream=stream,
            dtype=dtype,
            device=device,
            backend=backend,
        )


def noise_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the noise for latents of a dtype: float64 for float64, and otherwise float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
