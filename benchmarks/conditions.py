"""The condition of results: for each entry, the sum of the absolute values of the terms that are added.

Every op has a function ``terms(expected, *inputs)``, which returns these sums for its results and then its gradients,
whose float64 values are ``expected``. What they have in common is here. A term that is computed from a rounded number
counts once more, with the derivative along that number. In a gradient without a sum, the relative errors of the
factors of a product add up, and that of exp(y), computed from a rounded multiple of y, is 1 + abs(y) roundings. In a
long sum these have both signs and average out, so there each term counts once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def of_bound(log_weights: Tensor, nats: Tensor) -> tuple[Tensor, Tensor]:
    """Return the terms of log-mean-exp over the first axis, (B,), and those of a normalized weight relative to the
    weight, (k, B).

    ``nats`` are the terms of the log-weights, both (k, B): the absolute error of a log-weight is the relative error of
    its weight, which is divided by the sum of all.
    """
    total = torch.logsumexp(log_weights, 0)
    mean = (torch.exp(log_weights - total) * nats).sum(0)
    return 1.0 + mean + total.abs() + math.log(len(log_weights)), 2.0 + nats + mean


def of_loss(expected: Sequence[Tensor], log_weights: Tensor, nats: Tensor, gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return the terms of an IWAE loss, of its gradients by a density's parameters, and of that by the log-ratio.

    ``gradients`` are the terms of the density's own gradients, (k, B, D) each.
    """
    bound, relative = of_bound(log_weights, nats)
    _, *of_parameters, of_log_ratio = expected
    weights = of_log_ratio.abs()
    return [
        bound.mean(),
        *(
            relative[..., None] * value.abs() + weights[..., None] * terms
            for value, terms in zip(of_parameters, gradients, strict=True)
        ),
        relative * weights,
    ]
