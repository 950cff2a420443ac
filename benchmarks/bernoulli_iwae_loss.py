"""The fused loss beside what people write: BCE with logits, sum, logsumexp, mean."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import iwae_fast as iw

from .harness import Provider, Work

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def eager(value: Tensor, logits: Tensor, log_ratio: Tensor) -> Tensor:
    cross_entropy = F.binary_cross_entropy_with_logits(logits, value.expand_as(logits), reduction="none")
    log_weights = log_ratio - cross_entropy.sum(-1)
    return -(torch.logsumexp(log_weights, 0) - math.log(len(log_weights))).mean()


def works() -> list[Work]:
    return [work(50, 20, 784), work(5, 20, 784), work(1, 20, 784)]


def work(k: int, batch: int, features: int) -> Work:
    generator = torch.Generator().manual_seed(0)
    value = torch.bernoulli(torch.rand(batch, features, generator=generator), generator=generator)
    logits = torch.randn(k, batch, features, generator=generator)
    log_ratio = torch.randn(k, batch, generator=generator)
    losses: dict[str, Loss] = {
        "torch eager": eager,
        "torch.compile": torch.compile(eager, dynamic=False),
        "iwae_fast cpu": lambda *t: iw.bernoulli_iwae_loss(*t, backend="cpu"),
        "iwae_fast reference": lambda *t: iw.bernoulli_iwae_loss(*t, backend="reference"),
    }
    truth = _provider(losses["iwae_fast reference"], value.double(), logits.double(), log_ratio.double())()
    return Work(
        op="bernoulli_iwae_loss",
        mode="forward+backward",
        shape=f"k={k} B={batch} D={features}",
        dtype="float32",
        providers={name: _provider(loss, value, logits, log_ratio) for name, loss in losses.items()},
        truth=truth,
        tolerance=1e-4,
    )


def _provider(loss: Loss, value: Tensor, logits: Tensor, log_ratio: Tensor) -> Provider:
    leaves = [logits.clone().requires_grad_(), log_ratio.clone().requires_grad_()]

    def forward_backward() -> list[Tensor]:
        result = loss(value, *leaves)
        return [result.detach(), *torch.autograd.grad(result, leaves)]

    return forward_backward
