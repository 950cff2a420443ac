"""The fused loss of a Gaussian likelihood compared with the usual code: torch.distributions, logsumexp, mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

import iwae_fast as iw

from . import conditions, gaussian_log_prob
from .ops import op_work
from .work import Work


def eager(value: Tensor, mean: Tensor, log_std: Tensor, log_ratio: Tensor) -> Tensor:
    log_weights = gaussian_log_prob.eager(value, mean, log_std) + log_ratio
    return -(torch.logsumexp(log_weights, 0) - math.log(len(log_weights))).mean()


def terms(expected: Sequence[Tensor], value: Tensor, mean: Tensor, log_std: Tensor, log_ratio: Tensor) -> list[Tensor]:
    density = value, mean, log_std
    log_weights = gaussian_log_prob.eager(*density) + log_ratio
    nats = gaussian_log_prob.nats(*density) + log_ratio.abs()
    return conditions.of_loss(expected, log_weights, nats, gaussian_log_prob.gradient_terms(*density))


def inputs(device: torch.device, k: int, batch: int, features: int) -> list[Tensor]:
    return [*gaussian_log_prob.inputs(device, k, batch, features), torch.randn(k, batch, device=device)]


def works(device: torch.device, k: int, batch: int, features: int = 784) -> list[Work]:
    return [
        op_work(
            "gaussian_iwae_loss",
            "forward+backward",
            f"k={k} B={batch} D={features}",
            k,
            iw.gaussian_iwae_loss,
            eager,
            partial(inputs, device, k, batch, features),
            leaves=[1, 2, 3],
            at_once=True,
            terms=terms,
        )
    ]
