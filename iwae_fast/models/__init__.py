"""Latent-variable models: :class:`VAE` and :class:`BernoulliVAE` around user-supplied modules, :class:`DenseVAE` with
the papers' dense networks, :class:`RandomWeightsVAE` with random network weights; :class:`MixturePrior` and
:class:`VampPrior` as p(z)."""

from .base import LatentVariableModel
from .bernoulli import BernoulliVAE
from .dense import DenseVAE
from .linear_output import LinearOutput
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
