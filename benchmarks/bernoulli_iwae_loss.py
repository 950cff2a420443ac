"""The fused loss compared with the usual code: BCE with logits, sum, logsumexp, mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

import iwae_fast as iw

from . import bernoulli_log_prob, conditions
from .ops import op_work
from .work import Work


def eager(value: Tensor, logits: Tensor, log_ratio: Tensor) -> Tensor:
    log_weights = bernoulli_log_prob.eager(value, logits) + log_ratio
    return -(torch.logsumexp(log_weights, 0) - math.log(len(log_weights))).mean()


def terms(expected: Sequence[Tensor], value: Tensor, logits: Tensor, log_ratio: Tensor) -> list[Tensor]:
    log_weights = bernoulli_log_prob.eager(value, logits) + log_ratio
    nats = bernoulli_log_prob.nats(value, logits) + log_ratio.abs()
    return conditions.of_loss(expected, log_weights, nats, [bernoulli_log_prob.gradient_terms(value, logits)])


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
            terms=terms,
        )
    ]
