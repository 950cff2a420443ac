"""Latent-variable models: :class:`VAE` around anybody's modules, :class:`DenseVAE` with the papers' networks."""

from .dense import DenseVAE
from .vae import VAE

__all__ = ["VAE", "DenseVAE"]
