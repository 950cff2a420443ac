"""The ops of the C++ extension, for the CPU and for GPUs alike: each allocates its results through torch and hands raw
pointers to the kernels of its device.

Every function takes first the :class:`Native` whose kernels are to run.
"""

from .densities import (
    bernoulli_log_prob,
    bernoulli_log_prob_backward,
    gaussian_log_prob,
    gaussian_log_prob_backward,
    standard_gaussian_log_prob,
    standard_gaussian_log_prob_backward,
)
from .device import Native
from .linear import (
    linear_bernoulli_iwae_loss,
    linear_bernoulli_log_prob,
    linear_bernoulli_log_prob_and_residual,
    linear_bernoulli_log_prob_backward,
    linear_tanh,
    linear_tanh_backward,
)
from .losses import (
    bernoulli_iwae_loss,
    bernoulli_iwae_loss_and_gradients,
    bernoulli_iwae_loss_backward,
    gaussian_iwae_loss,
    gaussian_iwae_loss_and_gradients,
    gaussian_iwae_loss_backward,
    rescale,
)
from .samples import sample_gaussian, sample_gaussian_backward, standard_normal
from .weights import log_mean_exp, log_mean_exp_backward

__all__ = [
    "Native",
    "bernoulli_iwae_loss",
    "bernoulli_iwae_loss_and_gradients",
    "bernoulli_iwae_loss_backward",
    "bernoulli_log_prob",
    "bernoulli_log_prob_backward",
    "gaussian_iwae_loss",
    "gaussian_iwae_loss_and_gradients",
    "gaussian_iwae_loss_backward",
    "gaussian_log_prob",
    "gaussian_log_prob_backward",
    "linear_bernoulli_iwae_loss",
    "linear_bernoulli_log_prob",
    "linear_bernoulli_log_prob_and_residual",
    "linear_bernoulli_log_prob_backward",
    "linear_tanh",
    "linear_tanh_backward",
    "log_mean_exp",
    "log_mean_exp_backward",
    "rescale",
    "sample_gaussian",
    "sample_gaussian_backward",
    "standard_gaussian_log_prob",
    "standard_gaussian_log_prob_backward",
    "standard_normal",
]
