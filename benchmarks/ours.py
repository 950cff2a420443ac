"""How this package takes a training step: all samples, those that matter to a tolerance, or an unbiased budget."""

from __future__ import annotations

from typing import Any

import iwae_fast as iw

from .networks import Setting, dense_vae, observations
from .step import Step, minimise

BUDGET = 8
CHUNK = 25


def exact(setting: Setting) -> Step:
    return objective_step(setting)


def to_tolerance(setting: Setting) -> Step:
    """Samples whose weights sum to 1e-7 at most are left out: rounding. How many that are depends on the weights."""
    return objective_step(setting, tolerance=1e-7)


def within_budget(setting: Setting) -> Step:
    """The same gradient in the mean, with more noise."""
    return objective_step(setting, budget=BUDGET)


def in_chunks(setting: Setting) -> Step:
    """The same result as all samples at once, in the memory of a chunk."""
    return objective_step(setting, chunk_size=CHUNK)


def objective_step(setting: Setting, **options: Any) -> Step:
    model, x = dense_vae(setting), observations(setting)
    objective = iw.Objective(iw.bounds.IWAE(), num_samples=setting.k, **options)
    return minimise(lambda: objective(model, x), list(model.parameters()))
