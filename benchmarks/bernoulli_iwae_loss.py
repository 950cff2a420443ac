"""The fused loss beside what people write: BCE with logits, sum, logsumexp, mean."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

import iwae_fast as iw

from .harness import Work
from .works import work


def eager(value: Tensor, logits: Tensor, log_ratio: Tensor) -> Tensor:
    cross_entropy = F.binary_cross_entropy_with_logits(logits, value.expand_as(logits), reduction="none")
    log_weights = log_ratio - cross_entropy.sum(-1)
    return -(torch.logsumexp(log_weights, 0) - math.log(len(log_weights))).mean()


def works(device: torch.device, k: int, batch: int, features: int = 784) -> list[Work]:
    torch.manual_seed(0)
    value = torch.bernoulli(torch.rand(batch, features, device=device))
    inputs = [value, torch.randn(k, batch, features, device=device), torch.randn(k, batch, device=device)]
    return [
        work(
            "bernoulli_iwae_loss",
            "forward+backward",
            f"k={k} B={batch} D={features}",
            iw.bernoulli_iwae_loss,
            {"torch eager": eager},
            inputs,
            leaves=[1, 2],
        )
    ]
