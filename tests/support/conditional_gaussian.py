"""The exact conditional distribution of missing features in a linear Gaussian model."""

from __future__ import annotations

import torch
from linear_gaussian import linear_gaussian
from torch import Tensor

import iwae_fast as iw


def with_prior_as_proposal(data_dim: int = 5, latent_dim: int = 2) -> iw.models.VAE:
    """Return a linear Gaussian model whose encoder returns p(z) for every observation, so that no weight is large."""
    model = linear_gaussian(data_dim, latent_dim)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.zero_()
    return model


def conditional(model: iw.models.VAE, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return E[x | x_observed] and Var[x | x_observed], (B, D), with x itself and 0 for observed features."""
    decoder = model.decoder
    covariance = decoder.weight @ decoder.weight.T + torch.diag((2 * decoder.log_std).exp().expand_as(decoder.bias))
    mean, variance = x.clone(), torch.zeros_like(x)
    for row, seen in enumerate(mask):
        if seen.all():
            continue
        gain = covariance[~seen][:, seen] @ torch.linalg.inv(covariance[seen][:, seen])
        mean[row, ~seen] = decoder.bias[~seen] + gain @ (x[row, seen] - decoder.bias[seen])
        variance[row, ~seen] = (covariance[~seen][:, ~seen] - gain @ covariance[seen][:, ~seen]).diagonal()
    return mean.detach(), variance.detach()
