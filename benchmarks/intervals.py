"""Medians, quantiles and the bootstrap."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

RESAMPLES = 2000


class Ratio(NamedTuple):
    """A ratio of medians and its 95 % interval."""

    value: float
    low: float
    high: float


def ratio_of_medians(numerator: np.ndarray, denominator: np.ndarray, seed: int = 0) -> Ratio:
    """With the percentile bootstrap, which resamples rounds: what two providers saw in one round stays together, since
    the machine was in the same mood for both.

    Args:
        numerator, denominator: one entry a round, (R,) each.
    """
    rounds = len(numerator)
    chosen = np.random.default_rng(seed).integers(rounds, size=(RESAMPLES, rounds))
    ratios = np.median(numerator[chosen], axis=1) / np.median(denominator[chosen], axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Ratio(float(np.median(numerator) / np.median(denominator)), float(low), float(high))
