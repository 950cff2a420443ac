"""The Gaussian density compared with torch.distributions."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import iwae_fast as iw

from .ops import modes, op_work
from .work import Work


def eager(value: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    return torch.distributions.Normal(mean, log_std.exp(), validate_args=False).log_prob(value).sum(-1)


def inputs(device: torch.device, k: int, batch: int, features: int) -> list[Tensor]:
    """Create inputs with one scale per entry, and observations that are shared by the samples."""
    torch.manual_seed(0)
    return [torch.randn(*s, device=device) for s in ((batch, features), (k, batch, features), (k, batch, features))]


def works(device: torch.device, k: int, batch: int, features: int = 784) -> list[Work]:
    made = partial(inputs, device, k, batch, features)
    shape = f"k={k} B={batch} D={features}"
    return [
        op_work("gaussian_log_prob", mode, shape, k, iw.gaussian_log_prob, eager, made, leaves=[1, 2])
        for mode in modes(device)
    ]
