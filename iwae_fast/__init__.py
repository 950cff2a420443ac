"""Fast importance-weighted autoencoders for PyTorch: fused densities, bounds and losses, and a thin model package.

    import iwae_fast as iw
    loss = iw.bernoulli_iwae_loss(x, logits, log_ratio)

Importing compiles nothing and initializes no CUDA; neither Triton nor the C++ extension is required.
"""

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import backends, bounds, data, evaluate, likelihoods, models, optim
    from .capture import CapturedStep, CapturedSteps
    from .evaluate import activity, diagnostics, pruning
    from .evaluate.check_estimator import check_estimator
    from .evaluate.gradient_snr import gradient_snr
    from .experiments.loading import load_run
    from .fused import FusedStep
    from .objectives import Objective, estimators, schedules
    from .ops.densities import (
        bernoulli_log_prob,
        gaussian_log_prob,
        negative_binomial_log_prob,
        standard_gaussian_log_prob,
        zero_inflated_negative_binomial_log_prob,
    )
    from .ops.layers import linear_activation
    from .ops.linear import linear_bernoulli_iwae_loss, linear_bernoulli_log_prob
    from .ops.losses import (
        bernoulli_iwae_loss,
        gaussian_iwae_loss,
        iwae_loss,
        negative_binomial_iwae_loss,
        zero_inflated_negative_binomial_iwae_loss,
    )
    from .ops.samples import sample_gaussian, standard_normal
    from .ops.weights import effective_sample_size, log_mean_exp, normalized_weights

__all__ = [
    "CapturedStep",
    "CapturedSteps",
    "FusedStep",
    "Objective",
    "__version__",
    "activity",
    "backends",
    "bernoulli_iwae_loss",
    "bernoulli_log_prob",
    "bounds",
    "check_estimator",
    "data",
    "diagnostics",
    "effective_sample_size",
    "estimators",
    "evaluate",
    "gaussian_iwae_loss",
    "gaussian_log_prob",
    "gradient_snr",
    "iwae_loss",
    "likelihoods",
    "linear_activation",
    "linear_bernoulli_iwae_loss",
    "linear_bernoulli_log_prob",
    "load_run",
    "log_mean_exp",
    "models",
    "negative_binomial_iwae_loss",
    "negative_binomial_log_prob",
    "normalized_weights",
    "optim",
    "pruning",
    "sample_gaussian",
    "schedules",
    "standard_gaussian_log_prob",
    "standard_normal",
    "zero_inflated_negative_binomial_iwae_loss",
    "zero_inflated_negative_binomial_log_prob",
]

_HOMES = {
    "capture": ("CapturedStep", "CapturedSteps"),
    "evaluate": ("activity", "diagnostics", "pruning"),
    "evaluate.check_estimator": ("check_estimator",),
    "evaluate.gradient_snr": ("gradient_snr",),
    "experiments.loading": ("load_run",),
    "fused": ("FusedStep",),
    "objectives": ("Objective", "estimators", "schedules"),
    "ops.densities": (
        "bernoulli_log_prob",
        "gaussian_log_prob",
        "negative_binomial_log_prob",
        "standard_gaussian_log_prob",
        "zero_inflated_negative_binomial_log_prob",
    ),
    "ops.layers": ("linear_activation",),
    "ops.linear": ("linear_bernoulli_iwae_loss", "linear_bernoulli_log_prob"),
    "ops.losses": (
        "bernoulli_iwae_loss",
        "gaussian_iwae_loss",
        "iwae_loss",
        "negative_binomial_iwae_loss",
        "zero_inflated_negative_binomial_iwae_loss",
    ),
    "ops.samples": ("sample_gaussian", "standard_normal"),
    "ops.weights": ("effective_sample_size", "log_mean_exp", "normalized_weights"),
}
"""Public names that are not submodules of this package, by the module or package that defines them."""


def __getattr__(name: str) -> Any:
    """Import a public name on first access: importing torch takes seconds, which would delay the help output."""
    for home, names in _HOMES.items():
        if name in names:
            value = _from(f"{__name__}.{home}", name)
            globals()[name] = value
            return value
    if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _from(home: str, name: str) -> Any:
    """Return an attribute of a module, or a submodule of that name."""
    value = getattr(importlib.import_module(home), name, None)
    return importlib.import_module(f"{home}.{name}") if value is None else value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
