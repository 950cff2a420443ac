"""Ratios of medians with bootstrap intervals."""

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
    """Compute the ratio of two medians, with an interval by the percentile bootstrap.

    The bootstrap resamples rounds, so that the measurements of one round stay paired: drift in machine load affects
    both.

    Args:
        numerator, denominator: one entry per round, (R,) each.
    """
    rounds = len(numerator)
    chosen = np.random.default_rng(seed).integers(rounds, size=(RESAMPLES, rounds))
    ratios = np.median(numerator[chosen], axis=1) / np.median(denominator[chosen], axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Ratio(float(np.median(numerator) / np.median(denominator)), float(low), float(high))
