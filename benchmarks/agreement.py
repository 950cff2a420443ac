"""Comparison of a provider's results with the float64 reference, entry by entry or in the mean."""

from __future__ import annotations

import numpy as np

from .work import Evidence

STANDARD_ERRORS = 5.0

ROUNDING = 2.0**-24
"""The largest relative rounding error in float32, in which every provider sums."""


def tolerance_of_weights(tolerance: float, nats: float) -> float:
    """Return the tolerance, relative to the largest entry, for results computed from importance weights.

    A log-weight is a sum of terms, and ``nats`` is the largest sum of their absolute values. In float32 the error of a
    log-weight is at least one rounding of that size, and its absolute error is the relative error of the weight.
    """
    return tolerance + ROUNDING * nats


def differing_entries(found: Evidence, truth: Evidence, tolerance: float) -> str:
    """Describe the errors relative to the largest entry that exceed the tolerance, for the same inputs and noise."""
    wrong = []
    for name, expected in truth.items():
        error = float(abs(found[name] - expected).max() / abs(expected).max())
        if not error <= tolerance:
            wrong.append(f"{name} by {error:.1e} (relative; {tolerance:.0e} allowed)")
    return ", ".join(wrong)


def differing_means(found: Evidence, truth: Evidence) -> str:
    """Describe the figures whose means differ by more than 5 standard errors, for providers with their own noise.

    A provider may have fewer figures than the truth.
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
