"""The IWAE bound of log-weights compared with logsumexp."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

import iwae_fast as iw

from . import conditions
from .ops import modes, op_work
from .work import Work


def eager(log_weights: Tensor) -> Tensor:
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def terms(expected: Sequence[Tensor], log_weights: Tensor) -> list[Tensor]:
    bound, relative = conditions.of_bound(log_weights, log_weights.abs())
    return [bound, relative * expected[1].abs()]


def inputs(device: torch.device, k: int, batch: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [5.0 * torch.randn(k, batch, device=device)]


def works(device: torch.device, k: int, batch: int) -> list[Work]:
    made = partial(inputs, device, k, batch)
    return [
        op_work("log_mean_exp", mode, f"k={k} B={batch}", k, iw.log_mean_exp, eager, made, leaves=[0], terms=terms)
        for mode in modes(device)
    ]
