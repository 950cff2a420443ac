"""Weights of the divergence by step: how much log p(z) - log q(z | x) counts as training goes on."""

from __future__ import annotations

from collections.abc import Callable

from . import checks

Schedule = Callable[[int], float]


def linear_warmup(steps: int, start: float = 0.0, end: float = 1.0) -> Schedule:
    """From ``start`` to ``end`` in so many steps, then ``end`` (Bowman et al. 2016; Sonderby et al. 2016)."""
    checks.positive("steps", steps)
    return lambda step: start + (end - start) * min(step / steps, 1.0)


def cyclical(period: int, rising: float = 0.5, start: float = 0.0, end: float = 1.0) -> Schedule:
    """The warm-up again in every period, over its first part ``rising``; then ``end`` (Fu et al. 2019)."""
    checks.positive("period", period)
    if not 0.0 < rising <= 1.0:
        raise ValueError(f"rising must be above 0 and at most 1, got {rising}")
    return lambda step: start + (end - start) * min(step % period / (rising * period), 1.0)
