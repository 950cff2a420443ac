"""Latent-variable models: :class:`VAE` and :class:`BernoulliVAE` around anybody's modules, :class:`DenseVAE` with the
papers' networks and their like, :class:`RandomWeightsVAE` with random weights in them; :class:`MixturePrior` and
:class:`VampPrior` for their p(z)."""

from .base import LatentVariableModel, LinearOutput
from .bernoulli import BernoulliVAE
from .dense import DenseVAE
from .priors import MixturePrior, Prior, VampPrior
from .random_weights import RandomWeightsVAE
from .vae import VAE

__all__ = [
    "VAE",
    "BernoulliVAE",
    "DenseVAE",
    "LatentVariableModel",
    "LinearOutput",
    "MixturePrior",
    "Prior",
    "RandomWeightsVAE",
    "VampPrior",
]
