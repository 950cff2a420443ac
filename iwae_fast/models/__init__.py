"""Latent-variable models: :class:`VAE` and :class:`BernoulliVAE` around user-supplied modules, :class:`DenseVAE` with
the papers' dense networks, :class:`CellVAE` for counts of genes in cells, :class:`RandomWeightsVAE` with random network
weights; :class:`MixturePrior` and :class:`VampPrior` as p(z); :class:`DiagonalGaussian`, :class:`SampledPosterior` and
:class:`BernoulliPosterior`, the results of ``encode``; :class:`NotMIWAE` with :class:`SelfMasking` or
:class:`GeneralMasking` for features that are missing not at random."""

from .base import LatentVariableModel
from .bernoulli import BernoulliPosterior, BernoulliVAE
from .cells import CellVAE
from .dense import DenseVAE
from .linear_output import LinearOutput
from .missingness import GeneralMasking, SelfMasking
from .not_miwae import NotMIWAE
from .posteriors import DiagonalGaussian, SampledPosterior
from .priors import MixturePrior, Prior, VampPrior
from .random_weights import RandomWeightsVAE
from .vae import VAE

__all__ = [
    "VAE",
    "BernoulliPosterior",
    "BernoulliVAE",
    "CellVAE",
    "DenseVAE",
    "DiagonalGaussian",
    "GeneralMasking",
    "LatentVariableModel",
    "LinearOutput",
    "MixturePrior",
    "NotMIWAE",
    "Prior",
    "RandomWeightsVAE",
    "SampledPosterior",
    "SelfMasking",
    "VampPrior",
]
