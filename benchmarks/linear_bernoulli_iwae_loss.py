"""A linear layer and the IWAE loss in one op, compared with the usual code: a layer, BCE with logits, logsumexp."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

import iwae_fast as iw

from . import bernoulli_iwae_loss, conditions, linear_bernoulli_log_prob
from .ops import op_work
from .work import Work


def eager(value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, log_ratio: Tensor) -> Tensor:
    return bernoulli_iwae_loss.eager(value, torch.nn.functional.linear(hidden, weight, bias), log_ratio)


def terms(
    expected: Sequence[Tensor], value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, log_ratio: Tensor
) -> list[Tensor]:
    layer = value, hidden, weight, bias
    nats, residual, of_residual = linear_bernoulli_log_prob.layer_terms(*layer)
    log_weights = linear_bernoulli_log_prob.eager(*layer) + log_ratio
    bound, relative = conditions.of_bound(log_weights, nats + log_ratio.abs())
    weights = expected[-1].abs()
    of_logits = weights[..., None] * (of_residual + (1.0 + relative)[..., None] * residual)
    return [
        bound.mean(),
        *linear_bernoulli_log_prob.backward_terms(of_logits, hidden, weight),
        relative * weights,
    ]


def inputs(device: torch.device, k: int, batch: int, hidden: int, features: int) -> list[Tensor]:
    layer = linear_bernoulli_log_prob.inputs(device, k, batch, hidden, features)
    return [*layer, torch.randn(k, batch, device=device)]


def works(device: torch.device, k: int, batch: int, hidden: int = 200, features: int = 784) -> list[Work]:
    made = partial(inputs, device, k, batch, hidden, features)
    shape = f"k={k} B={batch} H={hidden} D={features}"
    ours = iw.linear_bernoulli_iwae_loss
    leaves = [1, 2, 3, 4]
    return [op_work("linear_bernoulli_iwae_loss", "forward+backward", shape, k, ours, eager, made, leaves, terms=terms)]
