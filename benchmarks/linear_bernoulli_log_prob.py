"""A linear layer and the Bernoulli density of its output in one op, compared with the two in sequence.

On the CPU our op runs without recomputation, as in the models; recomputation saves memory. On a GPU it recomputes, and
is also compared with torch's linear layer followed by our density, in time and in memory.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import iwae_fast as iw

from .ops import backends, op_work
from .work import Work

UNFUSED = "linear, then"
"""The name prefix of providers that store the logits and compute their density by one of our backends."""


def eager(value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    logits = F.linear(hidden, weight, bias)
    return -F.binary_cross_entropy_with_logits(logits, value.expand_as(logits), reduction="none").sum(-1)


def inputs(device: torch.device, k: int, batch: int, hidden: int, features: int) -> list[Tensor]:
    torch.manual_seed(0)
    value = torch.bernoulli(torch.rand(batch, features, device=device))
    activations = torch.tanh(torch.randn(k, batch, hidden, device=device))
    weight = torch.randn(features, hidden, device=device) / hidden**0.5
    return [value, activations, weight, torch.zeros(features, device=device)]


def unfused(value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, backend: str) -> Tensor:
    """Compute all logits by torch, and their density by a backend."""
    return iw.bernoulli_log_prob(value, F.linear(hidden, weight, bias), backend=backend)


def gpu_works(device: torch.device, k: int, batch: int, hidden: int = 200, features: int = 784) -> list[Work]:
    made = partial(inputs, device, k, batch, hidden, features)
    shape = f"k={k} B={batch} H={hidden} D={features}"
    ours = partial(iw.linear_bernoulli_log_prob, recompute=True)
    rivals = {f"{UNFUSED} {name}": partial(unfused, backend=name) for name in backends(device)}
    timed = [
        op_work("linear_bernoulli_log_prob", mode, shape, k, ours, eager, made, [1, 2, 3], rivals=rivals)
        for mode in ("forward", "forward+backward")
    ]
    return [*timed, *(replace(work, metric="peak bytes") for work in timed)]


def works(device: torch.device, k: int, batch: int, hidden: int = 200, features: int = 784) -> list[Work]:
    made = partial(inputs, device, k, batch, hidden, features)
    shape = f"k={k} B={batch} H={hidden} D={features}"
    ours = partial(iw.linear_bernoulli_log_prob, recompute=False)
    return [
        op_work("linear_bernoulli_log_prob", mode, shape, k, ours, eager, made, [1, 2, 3])
        for mode in ("forward", "forward+backward")
    ]
