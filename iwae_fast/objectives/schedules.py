"""Schedules of kl_weight, the factor of log p(z) - log q(z | x), by training step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .. import checks

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class LinearWarmup:
    """Linear from ``start`` to ``end`` in ``steps`` steps, then ``end`` (Bowman et al. 2016; Sonderby et al. 2016)."""

    steps: int
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        checks.positive("steps", self.steps)
        _numbers(start=self.start, end=self.end)

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * min(step / self.steps, 1.0)


@dataclass(frozen=True)
class Cyclical:
    """A linear warm-up at the start of every period, over the fraction ``rising`` of it; then ``end`` (Fu et al.
    2019)."""

    period: int
    rising: float = 0.5
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        checks.positive("period", self.period)
        _numbers(rising=self.rising, start=self.start, end=self.end)
        if not 0.0 < self.rising <= 1.0:
            raise ValueError(f"rising must be above 0 and at most 1, got {self.rising}")

    def __call__(self, step: int) -> float:
        part = step % self.period / (self.rising * self.period)
        return self.start + (self.end - self.start) * min(part, 1.0)


def _numbers(**values: float) -> None:
    for name, value in values.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value!r}")
