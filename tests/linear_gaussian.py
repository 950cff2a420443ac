"""The exact oracle: p(z) = N(0, I), p(x | z) = N(W z + b, s^2 I), whose marginal and posterior are known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import iwae_fast as iw


class Affine(nn.Module):
    """(mean, log_std): an affine mean and a constant scale."""

    def __init__(self, weight: Tensor, bias: Tensor, log_std: Tensor) -> None:
        super().__init__()
        self.weight, self.bias, self.log_std = nn.Parameter(weight), nn.Parameter(bias), nn.Parameter(log_std)

    def forward(self, value: Tensor) -> tuple[Tensor, Tensor]:
        mean = value @ self.weight.T + self.bias
        return mean, self.log_std.expand_as(mean)


def linear_gaussian(data_dim: int = 7, latent_dim: int = 3, log_std: float = -0.4) -> iw.models.VAE:
    """A float64 model with orthogonal columns of W, and the exact posterior as its encoder."""
    generator = torch.Generator().manual_seed(11)
    basis = torch.linalg.qr(torch.randn(data_dim, latent_dim, dtype=torch.float64, generator=generator)).Q
    scales = torch.linspace(0.5, 2.0, latent_dim, dtype=torch.float64)
    weight, bias = basis * scales, torch.randn(data_dim, dtype=torch.float64, generator=generator)
    variance = torch.tensor(2.0 * log_std, dtype=torch.float64).exp()
    posterior_variance = 1.0 / (1.0 + scales.square() / variance)
    gain = posterior_variance[:, None] * weight.T / variance
    encoder = Affine(gain, -gain @ bias, 0.5 * posterior_variance.log())
    decoder = Affine(weight, bias, torch.full((data_dim,), log_std, dtype=torch.float64))
    return iw.models.VAE(encoder, decoder, likelihood="gaussian", latent_dim=latent_dim)


def exact_log_likelihood(model: iw.models.VAE, x: Tensor) -> Tensor:
    """log N(x; b, W W^T + s^2 I)."""
    decoder = model.decoder
    covariance = decoder.weight @ decoder.weight.T + torch.diag((2 * decoder.log_std).exp())
    return torch.distributions.MultivariateNormal(decoder.bias, covariance).log_prob(x)
