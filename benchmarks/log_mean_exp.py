"""log-mean-exp over the samples beside torch.logsumexp."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import iwae_fast as iw

from .harness import Work
from .works import work


def eager(log_weights: Tensor) -> Tensor:
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def works(device: torch.device, k: int, batch: int) -> list[Work]:
    torch.manual_seed(0)
    inputs = [5.0 * torch.randn(k, batch, device=device)]
    return [
        work("log_mean_exp", mode, f"k={k} B={batch}", iw.log_mean_exp, {"torch eager": eager}, inputs, leaves=[0])
        for mode in ("forward", "forward+backward")
    ]
