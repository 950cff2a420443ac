"""A linear layer and the IWAE loss in one op, compared with the usual code: a layer, BCE with logits, logsumexp."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import iwae_fast as iw

from . import bernoulli_iwae_loss, linear_bernoulli_log_prob
from .ops import op_work
from .work import Work


def eager(value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, log_ratio: Tensor) -> Tensor:
    return bernoulli_iwae_loss.eager(value, torch.nn.functional.linear(hidden, weight, bias), log_ratio)


def nats(value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, log_ratio: Tensor) -> Tensor:
    """Compute the sum of the absolute values of each log-weight's terms, (k, B)."""
    return bernoulli_iwae_loss.nats(value, torch.nn.functional.linear(hidden, weight, bias), log_ratio)


def inputs(device: torch.device, k: int, batch: int, hidden: int, features: int) -> list[Tensor]:
    layer = linear_bernoulli_log_prob.inputs(device, k, batch, hidden, features)
    return [*layer, torch.randn(k, batch, device=device)]


def works(device: torch.device, k: int, batch: int, hidden: int = 200, features: int = 784) -> list[Work]:
    made = partial(inputs, device, k, batch, hidden, features)
    shape = f"k={k} B={batch} H={hidden} D={features}"
    ours = iw.linear_bernoulli_iwae_loss
    leaves = [1, 2, 3, 4]
    return [op_work("linear_bernoulli_iwae_loss", "forward+backward", shape, k, ours, eager, made, leaves, nats=nats)]
