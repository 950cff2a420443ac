"""Decomposition of the ELBO into reconstruction and KL divergence from the prior."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...evaluate.rows import device_rows
from ...models import LatentVariableModel
from ...models.draw import Draw
from ...modes import evaluation_mode
from ...ops.samples import seed_tensor

NUM_SAMPLES = 64


class Decomposition(NamedTuple):
    """Means over observations in nats: -ELBO = reconstruction + divergence."""

    reconstruction: float
    """E_q[-log p(x | z)]."""
    divergence: float
    """E_q[log q(z | x) - log p(z)], the KL divergence from the prior to q(z | x)."""


@torch.no_grad()
def decompose(
    model: LatentVariableModel, x: Tensor, seed: int, num_samples: int = NUM_SAMPLES, mask: Tensor | None = None
) -> Decomposition:
    """Estimate both parts for observations (B, ...) with ``num_samples`` draws of z per observation.

    The mask (B, ...) is True where x is observed; the reconstruction is then that of the observed features.
    """
    noise = seed_tensor(seed, x.device)
    rows = max(1, device_rows(model, x) // num_samples)
    sums = torch.zeros(2, dtype=torch.float64, device=x.device)
    with evaluation_mode(model):
        for first in range(0, len(x), rows):
            part = x[first : first + rows]
            draw = Draw(noise, num_samples, observation_offset=first)
            observed = None if mask is None else mask[first : first + rows]
            _, terms = model.terms(part, model.encode(part, mask=observed), draw, mask=observed)
            likelihood = terms.log_likelihood.double().sum()
            sums -= torch.stack((likelihood, terms.log_weights().double().sum() - likelihood))
    reconstruction, divergence = (sums / (len(x) * num_samples)).tolist()
    return Decomposition(reconstruction, divergence)
