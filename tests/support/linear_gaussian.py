"""Models with exact results: p(z) = N(0, I), p(x | z) = N(W z + b, s^2 I), whose marginal and posterior are known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import iwae_fast as iw


class Affine(nn.Module):
    """A network that returns (mean, log_std) with an affine mean and a constant scale."""

    def __init__(self, weight: Tensor, bias: Tensor, log_std: Tensor) -> None:
        super().__init__()
        self.weight, self.bias, self.log_std = nn.Parameter(weight), nn.Parameter(bias), nn.Parameter(log_std)

    def forward(self, value: Tensor) -> tuple[Tensor, Tensor]:
        mean = value @ self.weight.T + self.bias
        return mean, self.log_std.expand_as(mean)


def linear_gaussian(data_dim: int = 7, latent_dim: int = 3, log_std: float = -0.4) -> iw.models.VAE:
    """Return a float64 model with orthogonal columns of W, and the exact posterior as its encoder."""
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
    """Compute log N(x; b + W m, W V W^T + s^2 I), with m and V the prior mean and covariance of z_1."""
    decoder, mean = model.decoder, torch.zeros(model.decoder.weight.shape[1], dtype=torch.float64)
    covariance = torch.eye(len(mean), dtype=torch.float64)
    for layer in model.upper:  # at most one
        mean = layer.prior.bias
        covariance = layer.prior.weight @ layer.prior.weight.T + torch.diag((2 * layer.prior.log_std).exp())
    noise = torch.diag((2 * decoder.log_std).exp().expand_as(decoder.bias))
    covariance = decoder.weight @ covariance @ decoder.weight.T + noise
    return torch.distributions.MultivariateNormal(decoder.bias + decoder.weight @ mean, covariance).log_prob(x)


def two_layer_linear_gaussian(data_dim: int = 4, latent_dim: int = 2) -> iw.models.VAE:
    """Return a model with p(z_2) = N(0, I), p(z_1 | z_2) = N(a z_2 + c, s^2), p(x | z_1) = N(W z_1 + b, t^2).

    a, s and t are diagonal, and the columns of W orthogonal, so that each layer's posterior is diagonal; it is also the
    encoder.
    """
    one = linear_gaussian(data_dim, latent_dim)
    weight, bias, noise = (
        one.decoder.weight.detach(),
        one.decoder.bias.detach(),
        (2 * one.decoder.log_std.detach()).exp(),
    )
    a = torch.linspace(0.7, 1.3, latent_dim, dtype=torch.float64)
    c = torch.linspace(-0.5, 0.5, latent_dim, dtype=torch.float64)
    log_s = torch.linspace(-0.6, 0.2, latent_dim, dtype=torch.float64)
    variance = (2 * log_s).exp()
    marginal = a.square() + variance
    first_variance = 1.0 / (1.0 / marginal + weight.square().sum(0) / noise[0])
    gain = first_variance[:, None] * weight.T / noise[0]
    second_variance = 1.0 / (1.0 + a.square() / variance)
    second_gain = second_variance * a / variance
    encoder = Affine(gain, first_variance * c / marginal - gain @ bias, 0.5 * first_variance.log())
    upper = (
        Affine(torch.diag(second_gain), -second_gain * c, 0.5 * second_variance.log()),
        Affine(torch.diag(a), c, log_s),
    )
    return iw.models.VAE(encoder, one.decoder, "gaussian", upper=[upper], latent_dim=latent_dim)
