"""The Bernoulli density beside BCE with logits and its sum."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import iwae_fast as iw

from .harness import Work
from .works import work


def eager(value: Tensor, logits: Tensor) -> Tensor:
    return -F.binary_cross_entropy_with_logits(logits, value.expand_as(logits), reduction="none").sum(-1)


def works(
    device: torch.device, k: int, batch: int, features: int = 784, dtype: torch.dtype = torch.float32
) -> list[Work]:
    torch.manual_seed(0)
    value = torch.bernoulli(torch.rand(batch, features, device=device)).to(dtype)
    inputs = [value, torch.randn(k, batch, features, device=device).to(dtype)]
    shape = f"k={k} B={batch} D={features}"
    return [
        work("bernoulli_log_prob", mode, shape, iw.bernoulli_log_prob, {"torch eager": eager}, inputs, leaves=[1])
        for mode in ("forward", "forward+backward")
    ]
