"""The Bernoulli density compared with BCE with logits and a sum."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import iwae_fast as iw

from .ops import modes, op_work
from .work import Work


def eager(value: Tensor, logits: Tensor) -> Tensor:
    return -F.binary_cross_entropy_with_logits(logits, value.expand_as(logits), reduction="none").sum(-1)


def inputs(device: torch.device, k: int, batch: int, features: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    value = torch.bernoulli(torch.rand(batch, features, device=device)).to(dtype)
    return [value, torch.randn(k, batch, features, device=device).to(dtype)]


def works(
    device: torch.device, k: int, batch: int, features: int = 784, dtype: torch.dtype = torch.float32
) -> list[Work]:
    made = partial(inputs, device, k, batch, features, dtype)
    shape = f"k={k} B={batch} D={features}"
    return [
        op_work("bernoulli_log_prob", mode, shape, k, iw.bernoulli_log_prob, eager, made, leaves=[1])
        for mode in modes(device)
    ]
