"""The IWAE bound of log-weights compared with logsumexp."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

import iwae_fast as iw

from .ops import modes, op_work
from .work import Work


def eager(log_weights: Tensor) -> Tensor:
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def inputs(device: torch.device, k: int, batch: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [5.0 * torch.randn(k, batch, device=device)]


def works(device: torch.device, k: int, batch: int) -> list[Work]:
    made = partial(inputs, device, k, batch)
    return [
        op_work("log_mean_exp", mode, f"k={k} B={batch}", k, iw.log_mean_exp, eager, made, leaves=[0])
        for mode in modes(device)
    ]
