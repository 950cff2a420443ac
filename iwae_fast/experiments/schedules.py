"""Learning-rate schedules: the fraction of the run's learning rate at each step.

A fraction is a function of the step and of the number of steps of the run, and of nothing else, so that a resumed run
has the rates of one that was never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .protocols import PROTOCOLS

if TYPE_CHECKING:
    from .config import TrainConfig

SCHEDULES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "constant": lambda done, _: torch.ones_like(done),
    "linear": lambda done, final: 1.0 + (final - 1.0) * done,
    "cosine": lambda done, final: final + (1.0 - final) * 0.5 * (1.0 + torch.cos(math.pi * done)),
    "exponential": lambda done, final: final**done,
}
"""Schedules by their names on the command line: fractions from 1 to ``final`` for the part of the steps that is done,
from 0 to 1. They are LinearLR, CosineAnnealingLR and ExponentialLR of :mod:`torch.optim.lr_scheduler`."""


def learning_rates(config: TrainConfig, epoch: int, steps_per_epoch: int) -> Tensor:
    """Return the learning rates of the steps of an epoch, counted from 0, in float64.

    They are the rate of the protocol's stage times the schedule's fraction; over the first ``lr_warmup`` steps of the
    run the fraction rises linearly to 1 instead.
    """
    steps = epoch * steps_per_epoch + torch.arange(steps_per_epoch, dtype=torch.float64)
    scheduled = config.epochs * steps_per_epoch - config.lr_warmup
    done = ((steps - config.lr_warmup) / max(scheduled, 1)).clamp(0.0, 1.0)
    fractions = SCHEDULES[config.lr_schedule](done, config.lr_final)
    if config.lr_warmup:
        fractions = torch.where(steps < config.lr_warmup, (steps + 1) / config.lr_warmup, fractions)
    return config.learning_rate * PROTOCOLS[config.protocol].factor(epoch, config.stages) * fractions


def check_schedule(config: TrainConfig) -> None:
    """Raise ValueError if the protocol has a learning rate per stage, which leaves no room for a schedule."""
    if config.lr_schedule != "constant" and len(PROTOCOLS[config.protocol].factors) > 1:
        raise ValueError(
            f"lr_schedule must be 'constant' with protocol {config.protocol!r}, whose stages have learning rates of "
            f"their own, got {config.lr_schedule!r}"
        )


def check_warmup(config: TrainConfig, steps_per_epoch: int) -> None:
    """Raise ValueError if the warm-up would last longer than the run."""
    total = config.epochs * steps_per_epoch
    if config.lr_warmup > total:
        raise ValueError(f"lr_warmup must be at most {total}, the number of steps of the run, got {config.lr_warmup}")
