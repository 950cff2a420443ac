"""Gaussian samples with their log-ratio, compared with torch.distributions: rsample and two densities."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal

import iwae_fast as iw

from .ops import Call, op_work
from .work import Evidence, Work


def ours(mean: Tensor, log_std: Tensor, seed: Tensor, k: int, **options: Any) -> tuple[Tensor, Tensor]:
    return iw.sample_gaussian(mean, log_std, k, seed, **options)


def eager(mean: Tensor, log_std: Tensor, seed: Tensor, k: int) -> tuple[Tensor, Tensor]:  # noqa: ARG001 - its own noise
    posterior = Normal(mean, log_std.exp(), validate_args=False)
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean), validate_args=False)
    z = posterior.rsample(torch.Size([k]))
    return z, (prior.log_prob(z) - posterior.log_prob(z)).sum(-1)


def terms(expected: Sequence[Tensor], mean: Tensor, log_std: Tensor, seed: Tensor) -> list[Tensor]:  # noqa: ARG001
    z, size = expected[0], expected[0].abs()
    std = torch.exp(log_std)
    noise = ((z - mean) / std).abs()
    of_noise = 1.0 + noise  # it is a function of uniform numbers that are accurate to one unit roundoff
    of_z = mean.abs() + std * of_noise * (2.0 + log_std.abs())
    return [
        of_z,
        (0.5 * (size.square() + noise.square()) + log_std.abs() + size * of_z + noise * of_noise).sum(-1),
        (1.0 + size + of_z).sum(0),
        (std * (2.0 * of_noise * (1.0 + size) + noise * of_z) * (1.0 + log_std.abs()) + 1.0).sum(0),
    ]


def inputs(device: torch.device, batch: int, latents: int) -> list[Tensor]:
    """Create the inputs; the seed is on the device, so that it can be changed for a captured graph."""
    torch.manual_seed(0)
    return [
        torch.randn(batch, latents, device=device),
        0.1 * torch.randn(batch, latents, device=device),
        torch.tensor(1, device=device),
    ]


def figures(run: Call, tensors: list[Tensor]) -> Evidence:
    """Measure moments of z and of the log-ratio, and gradients along their parameters, with new noise in each call."""
    mean, log_std, seed = tensors
    found = []
    for index in range(100):
        seed.fill_(index)
        z, log_ratio, d_mean, d_log_std = (t.double() for t in run())
        found.append(
            {
                "mean of z": z.mean().item(),
                "mean square of z": z.square().mean().item(),
                "mean log-ratio": log_ratio.mean().item(),
                "mean square of the log-ratio": log_ratio.square().mean().item(),
                "gradient along the mean": (d_mean * mean).sum().item(),
                "gradient along log_std": (d_log_std * log_std).sum().item(),
            }
        )
    return {name: np.array([one[name] for one in found]) for name in found[0]}


def works(device: torch.device, k: int, batch: int, latents: int = 50) -> list[Work]:
    return [
        op_work(
            "sample_gaussian",
            "forward+backward",
            f"k={k} B={batch} Z={latents}",
            k,
            partial(ours, k=k),
            partial(eager, k=k),
            partial(inputs, device, batch, latents),
            leaves=[0, 1],
            terms=terms,
            own_noise=figures,
        )
    ]
