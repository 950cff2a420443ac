"""A linear layer and the Bernoulli density of its output in one op, compared with the two in sequence.

On the CPU our op runs without recomputation, as in the models; recomputation saves memory. On a GPU it recomputes, and
is also compared with torch's linear layer followed by our density, in time and in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import iwae_fast as iw

from . import bernoulli_log_prob
from .ops import backends, op_work
from .work import Work

UNFUSED = "linear, then"
"""The name prefix of providers that store the logits and compute their density by one of our backends."""


def eager(value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return bernoulli_log_prob.eager(value, F.linear(hidden, weight, bias))


class LayerTerms(NamedTuple):
    """Terms of the density and of its gradient by the logits, which are themselves rounded sums."""

    nats: Tensor
    """The terms of the density, (k, B)."""
    residual: Tensor
    """The absolute value of the gradient by the logits, (k, B, D)."""
    of_residual: Tensor
    """The terms of that gradient, (k, B, D)."""


def layer_terms(value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> LayerTerms:
    logits = F.linear(hidden, weight, bias)
    of_logits = F.linear(hidden.abs(), weight.abs(), bias.abs())
    sigmoid = torch.sigmoid(logits)
    residual = (value - sigmoid).abs()
    return LayerTerms(
        bernoulli_log_prob.nats(value, logits) + (residual * of_logits).sum(-1),
        residual,
        bernoulli_log_prob.gradient_terms(value, logits) + sigmoid * (1.0 - sigmoid) * of_logits,
    )


def backward_terms(terms: Tensor, hidden: Tensor, weight: Tensor) -> list[Tensor]:
    """Compute the terms of the gradients by hidden, weight and bias from those of the logits' gradient (k, B, D)."""
    rows = terms.flatten(0, 1)
    return [terms @ weight.abs(), rows.T @ hidden.abs().flatten(0, 1), rows.sum(0)]


def terms(
    expected: Sequence[Tensor],  # noqa: ARG001 - as the others
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
) -> list[Tensor]:
    nats, residual, of_residual = layer_terms(value, hidden, weight, bias)
    return [nats, *backward_terms(of_residual + residual, hidden, weight)]


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
        op_work("linear_bernoulli_log_prob", mode, shape, k, ours, eager, made, [1, 2, 3], rivals=rivals, terms=terms)
        for mode in ("forward", "forward+backward")
    ]
    in_memory = [tuple(p for p in work.providers if p.role != "bound") for work in timed]
    return [
        *timed,
        *(
            replace(work, metric="peak bytes", providers=providers)
            for work, providers in zip(timed, in_memory, strict=True)
        ),
    ]


def works(device: torch.device, k: int, batch: int, hidden: int = 200, features: int = 784) -> list[Work]:
    made = partial(inputs, device, k, batch, hidden, features)
    shape = f"k={k} B={batch} H={hidden} D={features}"
    ours = partial(iw.linear_bernoulli_log_prob, recompute=False)
    return [
        op_work("linear_bernoulli_log_prob", mode, shape, k, ours, eager, made, [1, 2, 3], terms=terms)
        for mode in ("forward", "forward+backward")
    ]
