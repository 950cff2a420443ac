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
    from . import activity, backends, bounds, diagnostics, evaluate, likelihoods, models, schedules
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

_HOMES = {
    "capture": ("CapturedStep",),
    "functional": (
        "bernoulli_iwae_loss",
        "bernoulli_log_prob",
        "effective_sample_size",
        "gaussian_iwae_loss",
        "gaussian_log_prob",
        "iwae_loss",
        "log_mean_exp",
        "normalized_weights",
        "standard_gaussian_log_prob",
    ),
    "gradients": ("check_estimator", "gradient_snr"),
    "linear": ("linear_bernoulli_iwae_loss", "linear_bernoulli_log_prob", "linear_tanh"),
    "loading": ("load_run",),
    "objective": ("Objective",),
    "sampling": ("sample_gaussian", "standard_normal"),
}
"""The submodules that define the names that are no submodules themselves."""


def __getattr__(name: str) -> Any:
    """Import what a name stands for when it is first asked for: importing torch takes seconds, which the help of the
    command line need not wait for."""
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
