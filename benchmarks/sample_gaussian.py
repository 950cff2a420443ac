"""Samples with their log-ratio beside torch.distributions: rsample and two densities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

import iwae_fast as iw

from .harness import Work
from .works import work


def works(device: torch.device, k: int, batch: int, latents: int = 50) -> list[Work]:
    torch.manual_seed(0)
    inputs = [torch.randn(batch, latents, device=device), 0.1 * torch.randn(batch, latents, device=device)]
    seed = torch.tensor(1, device=device)  # on the device, so that a captured graph could be given another

    def ours(mean: Tensor, log_std: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        return iw.sample_gaussian(mean, log_std, k, seed, **options)

    def eager(mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        posterior = Normal(mean, log_std.exp(), validate_args=False)
        prior = Normal(torch.zeros_like(mean), torch.ones_like(mean), validate_args=False)
        z = posterior.rsample(torch.Size([k]))
        return z, (prior.log_prob(z) - posterior.log_prob(z)).sum(-1)

    return [
        work(
            "sample_gaussian",
            "forward+backward",
            f"k={k} B={batch} Z={latents}",
            ours,
            {"torch eager": eager},
            inputs,
            leaves=[0, 1],
            own_noise=True,
        )
    ]
