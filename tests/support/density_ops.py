"""The public ops of every density, derived from the package's table, for tests that cover each of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

import iwae_fast as iw
from iwae_fast.reference import DENSITIES


class DensityOp(NamedTuple):
    """A public op of a density: it takes the density's tensors, and a loss then takes the log-ratio."""

    function: Callable[..., Tensor]
    parameters: tuple[str, ...]
    """The names of the density's tensors, the value first."""


PARAMETERS = {name: tuple(inspect.signature(density).parameters)[:-1] for name, density in DENSITIES.items()}
"""The names of the tensors of each density; the last parameter of its function is the mask."""

LOG_PROBS = {
    f"{name}_log_prob": DensityOp(getattr(iw, f"{name}_log_prob"), names) for name, names in PARAMETERS.items()
}

LOSSES = {
    f"{name}_iwae_loss": DensityOp(getattr(iw, f"{name}_iwae_loss"), names)
    for name, names in PARAMETERS.items()
    if len(names) > 1
}
