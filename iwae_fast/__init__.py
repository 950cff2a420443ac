"""Fast importance-weighted autoencoders for PyTorch: fused densities, bounds and losses, and a thin model package.

    import iwae_fast as iw
    loss = iw.bernoulli_iwae_loss(x, logits, log_ratio)

Importing compiles nothing and initialises no CUDA; neither Triton nor the C++ extension is required.
"""

from . import activity, backends, bounds, diagnostics, evaluate, likelihoods, models, schedules
from ._version import __version__
from .capture import CapturedStep
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
from .gradients import check_estimator, gradient_snr
from .linear import linear_bernoulli_iwae_loss, linear_bernoulli_log_prob, linear_tanh
from .loading import load_run
from .objective import Objective
from .sampling import sample_gaussian, standard_normal

__all__ = [
    "CapturedStep",
    "Objective",
    "__version__",
    "activity",
    "backends",
    "bernoulli_iwae_loss",
    "bernoulli_log_prob",
    "bounds",
    "check_estimator",
    "diagnostics",
    "effective_sample_size",
    "evaluate",
    "gaussian_iwae_loss",
    "gaussian_log_prob",
    "gradient_snr",
    "iwae_loss",
    "likelihoods",
    "linear_bernoulli_iwae_loss",
    "linear_bernoulli_log_prob",
    "linear_tanh",
    "load_run",
    "log_mean_exp",
    "models",
    "normalized_weights",
    "sample_gaussian",
    "schedules",
    "standard_gaussian_log_prob",
    "standard_normal",
]
