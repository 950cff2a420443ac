"""The launch functions of all kernels, and the densities by name, for the Triton backend."""

from .adam import adam, sum_squares
from .bernoulli_log_prob import BERNOULLI
from .density_backward import log_prob_backward
from .density_forward import log_prob
from .gaussian_log_prob import GAUSSIAN
from .iwae_loss import iwae_loss, iwae_loss_backward
from .linear_activation_backward import linear_activation_backward, linear_heads_backward
from .linear_activation_forward import linear_activation, linear_heads
from .linear_bernoulli_log_prob import linear_bernoulli_log_prob, linear_bernoulli_log_prob_and_residual
from .log_mean_exp import log_mean_exp, log_mean_exp_backward
from .negative_binomial_log_prob import NEGATIVE_BINOMIAL, ZERO_INFLATED_NEGATIVE_BINOMIAL
from .sample_gaussian import sample_gaussian, sample_gaussian_backward
from .selection import select_samples
from .standard_gaussian_log_prob import STANDARD_GAUSSIAN
from .standard_normal import standard_normal
from .terms import scaled_gradients
from .weight_scales import weight_scales

__all__ = [
    "DENSITIES",
    "adam",
    "iwae_loss",
    "iwae_loss_backward",
    "linear_activation",
    "linear_activation_backward",
    "linear_bernoulli_log_prob",
    "linear_bernoulli_log_prob_and_residual",
    "linear_heads",
    "linear_heads_backward",
    "log_mean_exp",
    "log_mean_exp_backward",
    "log_prob",
    "log_prob_backward",
    "sample_gaussian",
    "sample_gaussian_backward",
    "scaled_gradients",
    "select_samples",
    "standard_normal",
    "sum_squares",
    "weight_scales",
]

DENSITIES = {
    "bernoulli": BERNOULLI,
    "gaussian": GAUSSIAN,
    "negative_binomial": NEGATIVE_BINOMIAL,
    "standard_gaussian": STANDARD_GAUSSIAN,
    "zero_inflated_negative_binomial": ZERO_INFLATED_NEGATIVE_BINOMIAL,
}
