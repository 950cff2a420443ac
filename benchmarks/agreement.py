"""Comparison of a provider's results with the float64 reference, entry by entry or in the mean.

Entry by entry, the allowed error is what rounding can explain: a sum of terms that are rounded, added in float32, has
an error of at most the unit roundoff times the sum of the terms' absolute values, times the number of roundings that a
term passes through. ``conditions.py`` has the sums of the absolute values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from .work import Evidence

STANDARD_ERRORS = 5.0

ROUNDINGS = 16.0
"""The allowed error in unit roundoffs of the sum of the absolute values of an entry's terms.

One of 784 terms is computed in about 6 operations and added in a tree 10 levels deep, so at most 16 roundings of the
same sign add up. Mostly they have both signs: on a CPU no provider of an op at k = 50 and 500 exceeds 6. An error of
1 % in a weight is refused where the terms of the log-weights add up to at most 5000 nats.
"""

UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-10}
"""The largest relative error of a rounding, by the dtype of the inputs. For bfloat16 it is a quarter of the true one,
2^-8: the usual code rounds each term and the sum to bfloat16, 4 times in all, but adds in float32."""

SMALLEST = 2.0**-126
"""The smallest normal number in float32: below it, results may be flushed to zero."""

TF32_ROUNDOFF = 2.0**-11
"""The largest relative rounding error of the factors of a TF32 product."""


class Sum(NamedTuple):
    """A result as the reference computes it, with its condition."""

    value: Any
    """The entries."""
    terms: Any
    """For each entry the sum of the absolute values of the terms that are added; it broadcasts to ``value``."""


def differing_entries(found: Evidence, truth: Evidence, unit: float = UNIT_ROUNDOFF[torch.float32]) -> str:
    """Describe the results with an error beyond :data:`ROUNDINGS` times ``unit`` times the terms of an entry."""
    wrong = []
    for name, (value, terms) in truth.items():
        error = abs(found[name] - value)
        excess = error / (ROUNDINGS * unit * terms + SMALLEST)
        if not float(excess.max()) <= 1.0:  # NaN is refused
            worst = int(excess.argmax())
            entry, size = (float(t.flatten()[worst]) for t in (error, abs(value)))
            wrong.append(
                f"{name} by {entry:.1e} in an entry of {size:.1e}, {float(excess.max()):.1e} times what rounding allows"
            )
    return ", ".join(wrong)


def differing_means(found: Evidence, truth: Evidence, rounding: float = 0.0) -> str:
    """Describe the figures whose means differ by more than 5 standard errors, for providers with their own noise.

    ``rounding`` is a relative error that is allowed in addition. A provider may have fewer figures than the truth.
    """
    wrong = []
    for name, figures in found.items():
        expected = truth[name]
        error = float(np.sqrt(figures.var(ddof=1) / len(figures) + expected.var(ddof=1) / len(expected)))
        allowed = STANDARD_ERRORS * error + rounding * abs(expected.mean())
        if not abs(figures.mean() - expected.mean()) <= allowed:
            wrong.append(
                f"{name} is {figures.mean():.6g} on average of {len(figures)}, the reference's {expected.mean():.6g} "
                f"of {len(expected)}, standard error of the difference {error:.2g}"
            )
    return "; ".join(wrong)
