"""Latent-variable models: :class:`VAE` and :class:`BernoulliVAE` around anybody's modules, :class:`DenseVAE` with the
papers' networks, :class:`RandomWeightsVAE` with random weights in them."""

from .base import LatentVariableModel, LinearOutput
from .bernoulli import BernoulliVAE
from .dense import DenseVAE
from .random_weights import RandomWeightsVAE
from .vae import VAE

__all__ = ["VAE", "BernoulliVAE", "DenseVAE", "LatentVariableModel", "LinearOutput", "RandomWeightsVAE"]
