"""The fused loss compared with the usual code: BCE with logits, sum, logsumexp, mean."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import iwae_fast as iw

from .ops import op_work
from .work import Work


def eager(value: Tensor, logits: Tensor, log_ratio: Tensor) -> Tensor:
    cross_entropy = F.binary_cross_entropy_with_logits(logits, value.expand_as(logits), reduction="none")
    log_weights = log_ratio - cross_entropy.sum(-1)
    return -(torch.logsumexp(log_weights, 0) - math.log(len(log_weights))).mean()


def nats(value: Tensor, logits: Tensor, log_ratio: Tensor) -> Tensor:
    """Compute the sum of the absolute values of each log-weight's terms, (k, B)."""
    return ((value * logits).abs() + F.softplus(logits)).sum(-1) + log_ratio.abs()


def inputs(device: torch.device, k: int, batch: int, features: int) -> list[Tensor]:
    torch.manual_seed(0)
    value = torch.bernoulli(torch.rand(batch, features, device=device))
    return [value, torch.randn(k, batch, features, device=device), torch.randn(k, batch, device=device)]


def works(device: torch.device, k: int, batch: int, features: int = 784) -> list[Work]:
    return [
        op_work(
            "bernoulli_iwae_loss",
            "forward+backward",
            f"k={k} B={batch} D={features}",
            k,
            iw.bernoulli_iwae_loss,
            eager,
            partial(inputs, device, k, batch, features),
            leaves=[1, 2],
            at_once=True,
            nats=nats,
        )
    ]
