"""The Gaussian density beside torch.distributions."""

from __future__ import annotations

import torch
from torch import Tensor

import iwae_fast as iw

from .harness import Work
from .works import work


def eager(value: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    return torch.distributions.Normal(mean, log_std.exp(), validate_args=False).log_prob(value).sum(-1)


def works(device: torch.device, k: int, batch: int, features: int = 784) -> list[Work]:
    """A scale for each entry, and the observations shared by the samples."""
    torch.manual_seed(0)
    inputs = [torch.randn(*s, device=device) for s in ((batch, features), (k, batch, features), (k, batch, features))]
    shape = f"k={k} B={batch} D={features}"
    return [
        work("gaussian_log_prob", mode, shape, iw.gaussian_log_prob, {"torch eager": eager}, inputs, leaves=[1, 2])
        for mode in ("forward", "forward+backward")
    ]
