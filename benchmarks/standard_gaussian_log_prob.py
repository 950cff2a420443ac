"""The standard Gaussian density compared with torch.distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

import iwae_fast as iw

from .ops import modes, op_work
from .work import Work


def eager(value: Tensor) -> Tensor:
    standard = torch.distributions.Normal(torch.zeros_like(value), torch.ones_like(value), validate_args=False)
    return standard.log_prob(value).sum(-1)


def terms(expected: Sequence[Tensor], value: Tensor) -> list[Tensor]:  # noqa: ARG001 - as the others
    return [(0.5 * value.square() + 0.5 * math.log(2.0 * math.pi)).sum(-1), value.abs()]


def inputs(device: torch.device, k: int, batch: int, features: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(k, batch, features, device=device)]


def works(device: torch.device, k: int, batch: int, features: int = 784) -> list[Work]:
    made = partial(inputs, device, k, batch, features)
    shape = f"k={k} B={batch} D={features}"
    ours = iw.standard_gaussian_log_prob
    return [
        op_work("standard_gaussian_log_prob", mode, shape, k, ours, eager, made, leaves=[0], terms=terms)
        for mode in modes(device)
    ]
