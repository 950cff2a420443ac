"""Training steps of this package: all samples, those that matter within a tolerance, or an unbiased budget; on a GPU
with the kernels of a backend, launched one by one or captured as a CUDA graph."""

from __future__ import annotations

from typing import Any

import iwae_fast as iw

from .networks import LEARNING_RATE, Setting, observations, vae, weight_matrices
from .step import Step, minimise

BUDGET = 8
CHUNK = 25
CALLS_TO_CAPTURE = 4
"""The number of calls after which a step is captured."""


class NotCapturedError(RuntimeError):
    """Raised if the step could not be captured."""


def exact(setting: Setting) -> Step:
    return objective_step(setting)


def to_tolerance(setting: Setting) -> Step:
    """Return a step without the samples whose weights sum to at most 1e-7, which is rounding; their number depends on
    the weights."""
    return objective_step(setting, tolerance=1e-7)


def within_budget(setting: Setting) -> Step:
    """Return a step with a budget: the same gradient in the mean, with more noise."""
    return objective_step(setting, budget=BUDGET)


def in_chunks(setting: Setting) -> Step:
    """Return a step in chunks: the same result as all samples at once, in the memory of one chunk."""
    return objective_step(setting, chunk_size=CHUNK)


def by_backend(setting: Setting, backend: str) -> Step:
    return objective_step(setting, backend=backend)


def captured(setting: Setting, backend: str, compile: bool = False, **options: Any) -> Step:
    """Return a step captured as a CUDA graph, with options of the objective, and with networks by torch.compile if
    ``compile``."""
    x = observations(setting)
    step = captured_step(setting, backend, 0, compile, **options)
    for _ in range(CALLS_TO_CAPTURE):
        step(x)
    refuse_if_not_captured(step)
    return Step(lambda: step(x), weight_matrices(step.model.parameters()))


def captured_step(setting: Setting, backend: str, seed: int, compile: bool = False, **options: Any) -> iw.CapturedStep:
    """Return a step that is captured after some calls."""
    model = vae(setting, backend)
    objective = iw.Objective(iw.bounds.IWAE(), num_samples=setting.k, **options)
    optimizer = iw.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    more = {"compile": True} if compile else {}
    return iw.CapturedStep(objective, model, optimizer, seed=seed, **more)


def refuse_if_not_captured(step: iw.CapturedStep) -> None:
    """Raise NotCapturedError if a step is not captured."""
    if step.reason is not None:
        raise NotCapturedError(f"steps are run one by one: {step.reason}")


def objective_step(setting: Setting, backend: str | None = None, **options: Any) -> Step:
    model, x = vae(setting, backend), observations(setting)
    objective = iw.Objective(iw.bounds.IWAE(), num_samples=setting.k, **options)
    return minimise(lambda: objective(model, x), list(model.parameters()))
