"""Training steps of many models of the papers' network on one GPU: one model after the other, and side by side.

The models differ in their seeds. A call of either provider takes one captured step of every model, each from a call in
Python; ``python -m benchmarks.training`` measures runs, which capture many steps per graph.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

import iwae_fast as iw

from . import agreement, ours
from .networks import Setting, observations, weight_matrices
from .ops import backends
from .step import Step, prepare, truth
from .work import Check, Provider, Work

MODELS = 24
"""The number of models: a table of three values of k and eight seeds."""

OP = f"steps of {MODELS} models"
IN_A_ROW, SIDE_BY_SIDE = "in a row", "side by side"


def works(setting: Setting, models: int = MODELS) -> list[Work]:
    """Return the workload on the setting's device, for each of its backends."""
    check = Check(partial(truth, setting), agreement.differing_means)
    providers = []
    for backend in backends(setting.device):
        for name, make in ((IN_A_ROW, in_a_row), (SIDE_BY_SIDE, side_by_side)):
            prepared = partial(prepare, partial(make, backend=backend, models=models), setting)
            providers.append(Provider(f"iwae_fast {backend} {name}", prepared, check, "ours", "iwae_fast"))
    device = setting.device
    return [Work(OP, "training", str(setting), tuple(providers), setting.k, device=device, whole=True)]


def in_a_row(setting: Setting, backend: str, models: int) -> Step:
    """Return a step of every model, one after the other; its loss is that of the last model."""
    steps, x = captured_steps(setting, backend, models), observations(setting)

    def take() -> Tensor:
        return [step(x) for step in steps][-1]

    return _captured(take, steps)


def side_by_side(setting: Setting, backend: str, models: int) -> Step:
    """Return a step of every model at the same time; its loss is that of the last model."""
    steps, x = captured_steps(setting, backend, models), observations(setting)
    together = iw.CapturedSteps(steps)
    return _captured(lambda: together(x)[-1], steps)


def captured_steps(setting: Setting, backend: str, models: int) -> list[iw.CapturedStep]:
    return [ours.captured_step(setting, backend, seed) for seed in range(models)]


def _captured(take: Callable[[], Tensor], steps: list[iw.CapturedStep]) -> Step:
    for _ in range(ours.CALLS_TO_CAPTURE):
        take()
    for step in steps:
        ours.refuse_if_not_captured(step)
    return Step(take, weight_matrices(steps[-1].model.parameters()))
