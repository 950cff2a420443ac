"""The fused operations: public functions that check their arguments, choose a backend, and run it behind autograd."""

from .functional import (
    bernoulli_iwae_loss,
    bernoulli_log_prob,
    effective_sample_size,
    gaussian_iwae_loss,
    gaussian_log_prob,
    iwae_loss,
    log_mean_exp,
    normalized_weights,
    standard_gaussian_log_prob,
)
from .linear import linear_bernoulli_iwae_loss, linear_bernoulli_log_prob, linear_tanh
from .samples import sample_gaussian, standard_normal

__all__ = [
    "bernoulli_iwae_loss",
    "bernoulli_log_prob",
    "effective_sample_size",
    "gaussian_iwae_loss",
    "gaussian_log_prob",
    "iwae_loss",
    "linear_bernoulli_iwae_loss",
    "linear_bernoulli_log_prob",
    "linear_tanh",
    "log_mean_exp",
    "normalized_weights",
    "sample_gaussian",
    "standard_gaussian_log_prob",
    "standard_normal",
]
