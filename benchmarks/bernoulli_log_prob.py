"""The Bernoulli density compared with BCE with logits and a sum."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import iwae_fast as iw

from .ops import modes, op_work
from .work import Work


def eager(value: Tensor, logits: Tensor) -> Tensor:
    return -F.binary_cross_entropy_with_logits(logits, value.expand_as(logits), reduction="none").sum(-1)


def nats(value: Tensor, logits: Tensor) -> Tensor:
    """Compute the terms of the density, (k, B)."""
    return ((value * logits).abs() + F.softplus(logits)).sum(-1)


def gradient_terms(value: Tensor, logits: Tensor) -> Tensor:
    """Compute the terms of value - sigmoid(logits), (k, B, D)."""
    return (value.abs() + torch.sigmoid(logits)) * (1.0 + logits.abs())


def terms(expected: Sequence[Tensor], value: Tensor, logits: Tensor) -> list[Tensor]:  # noqa: ARG001 - as the others
    return [nats(value, logits), gradient_terms(value, logits)]


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
        op_work("bernoulli_log_prob", mode, shape, k, iw.bernoulli_log_prob, eager, made, leaves=[1], terms=terms)
        for mode in modes(device)
    ]
