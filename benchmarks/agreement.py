"""Whether what a provider computes agrees with the reference in float64: entry by entry, or in the mean."""

from __future__ import annotations

import numpy as np

from .work import Evidence

STANDARD_ERRORS = 5.0

ROUNDING = 2.0**-24
"""Largest relative error of a rounding in float32, in which every provider sums."""


def tolerance_of_weights(tolerance: float, nats: float) -> float:
    """Return what to allow, relative to the largest entry, where results are made of importance weights.

    A log-weight is a sum of terms; ``nats`` is the largest sum of their absolute values. In float32 no provider knows
    it better than to one rounding of that size, and an absolute error of a log-weight is a relative one of the weight.
    """
    return tolerance + ROUNDING * nats


def of_entries(found: Evidence, truth: Evidence, tolerance: float) -> str:
    """Errors relative to the largest entry, where they are above the tolerance: for the same inputs and noise."""
    wrong = []
    for name, expected in truth.items():
        error = float(abs(found[name] - expected).max() / abs(expected).max())
        if not error <= tolerance:
            wrong.append(f"{name} by {error:.1e} (relative; {tolerance:.0e} allowed)")
    return ", ".join(wrong)


def of_means(found: Evidence, truth: Evidence) -> str:
    """The means of each figure, where they differ by more than 5 standard errors: for noise of one's own.

    A provider need not have every figure of the truth.
    """
    wrong = []
    for name, figures in found.items():
        expected = truth[name]
        error = float(np.sqrt(figures.var(ddof=1) / len(figures) + expected.var(ddof=1) / len(expected)))
        if not abs(figures.mean() - expected.mean()) <= STANDARD_ERRORS * error:
            wrong.append(
                f"{name} is {figures.mean():.6g} on average of {len(figures)}, the reference's {expected.mean():.6g} "
                f"of {len(expected)}, standard error of the difference {error:.2g}"
            )
    return "; ".join(wrong)
