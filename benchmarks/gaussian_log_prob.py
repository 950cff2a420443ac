"""The Gaussian density compared with torch.distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

import iwae_fast as iw

from .ops import modes, op_work
from .work import Work


def eager(value: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    return torch.distributions.Normal(mean, log_std.exp(), validate_args=False).log_prob(value).sum(-1)


def nats(value: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Compute the terms of the density, (k, B), where the roundings of many terms average out."""
    square = (value - mean).square() * torch.exp(-2.0 * log_std)
    return (0.5 * square + log_std.abs() + 0.5 * math.log(2.0 * math.pi)).sum(-1)


def gradient_terms(value: Tensor, mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the terms of the gradients by mean and log_std, (k, B, D) each."""
    precision, of_precision = torch.exp(-2.0 * log_std), 1.0 + 2.0 * log_std.abs()
    distance = (value - mean).abs()
    return distance * precision * (1.0 + of_precision), distance.square() * precision * (2.0 + of_precision) + 1.0


def terms(expected: Sequence[Tensor], value: Tensor, mean: Tensor, log_std: Tensor) -> list[Tensor]:  # noqa: ARG001
    of_mean, of_log_std = gradient_terms(value, mean, log_std)
    # One term of a narrow scale may be larger than all others together: each counts with its own roundings.
    return [(of_log_std + log_std.abs()).sum(-1), of_mean, of_log_std]


def inputs(device: torch.device, k: int, batch: int, features: int) -> list[Tensor]:
    """Create inputs with one scale per entry, and observations that are shared by the samples."""
    torch.manual_seed(0)
    return [torch.randn(*s, device=device) for s in ((batch, features), (k, batch, features), (k, batch, features))]


def works(device: torch.device, k: int, batch: int, features: int = 784) -> list[Work]:
    made = partial(inputs, device, k, batch, features)
    shape = f"k={k} B={batch} D={features}"
    return [
        op_work("gaussian_log_prob", mode, shape, k, iw.gaussian_log_prob, eager, made, leaves=[1, 2], terms=terms)
        for mode in modes(device)
    ]
