"""The fused loss of a Gaussian likelihood compared with the usual code: torch.distributions, logsumexp, mean."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

import iwae_fast as iw

from . import gaussian_log_prob
from .ops import op_work
from .work import Work


def eager(value: Tensor, mean: Tensor, log_std: Tensor, log_ratio: Tensor) -> Tensor:
    log_weights = gaussian_log_prob.eager(value, mean, log_std) + log_ratio
    return -(torch.logsumexp(log_weights, 0) - math.log(len(log_weights))).mean()


def nats(value: Tensor, mean: Tensor, log_std: Tensor, log_ratio: Tensor) -> Tensor:
    """Compute the sum of the absolute values of each log-weight's terms, (k, B)."""
    squares = torch.addcmul(log_std.abs(), value - mean, (value - mean) * torch.exp(-2.0 * log_std), value=0.5)
    return (squares + 0.5 * math.log(2.0 * math.pi)).sum(-1) + log_ratio.abs()


def inputs(device: torch.device, k: int, batch: int, features: int) -> list[Tensor]:
    return [*gaussian_log_prob.inputs(device, k, batch, features), torch.randn(k, batch, device=device)]


def works(device: torch.device, k: int, batch: int, features: int = 784) -> list[Work]:
    return [
        op_work(
            "gaussian_iwae_loss",
            "forward+backward",
            f"k={k} B={batch} D={features}",
            k,
            iw.gaussian_iwae_loss,
            eager,
            partial(inputs, device, k, batch, features),
            leaves=[1, 2, 3],
            at_once=True,
            nats=nats,
        )
    ]
