"""The tolerances of all tests.

The error of a kernel may be as large as that of plain torch on the same inputs (the reference run in the same dtype),
plus the allowance defined here, which is a few roundings of the terms of a sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = {torch.float32: 2.0**-24, torch.float64: 2.0**-50, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""The largest relative error of rounding to nearest; for float64 eight times that, as the truth is float64 itself."""

SMALLEST = {torch.float32: 2.0**-149, torch.float64: 2.0**-1074, torch.bfloat16: 2.0**-133, torch.float16: 2.0**-25}
"""The largest absolute error of rounding to nearest among the subnormal numbers."""

ROUNDINGS_A_TERM = 8
"""The roundings per term of a density or gradient: of the exponential, the products, and the additions to the sum."""


def sum_allowance(dtype: torch.dtype, terms: Tensor) -> Tensor:
    """Return the allowance for a sum of these terms (float64) over the last axis, accumulated in ``dtype``; nats."""
    return ROUNDING[dtype] * (terms.shape[-1] + ROUNDINGS_A_TERM * terms.abs().sum(-1))


def gradient_allowance(accumulated: torch.dtype, stored: torch.dtype, exact: Tensor, largest: float) -> Tensor:
    """Return the allowance for a gradient with terms of at most ``largest``, accumulated and stored in these dtypes."""
    return ROUNDING[accumulated] * ROUNDINGS_A_TERM * (largest + exact.abs()) + (
        ROUNDING[stored] * exact.abs() + SMALLEST[stored] if stored != accumulated else 0.0
    )


def assert_no_worse(ours: Tensor, eager: Tensor, exact: Tensor, allowance: Tensor | float) -> None:
    """Assert that our error against float64 is at most torch's own plus the allowance, entry by entry."""
    allowed = (eager.double() - exact).abs() + allowance
    excess = (ours.double() - exact).abs() - allowed
    # inf - inf is NaN. Equal infinities are correct, and so is an overflow where torch overflows too.
    same = (ours.double() == exact) | (ours == eager) | (ours.isnan() & exact.isnan())
    worst = torch.where(same, 0.0, excess)
    if not bool((worst <= 0).all()):
        at = int(torch.nan_to_num(worst, nan=torch.inf).argmax())
        raise AssertionError(
            f"entry {at}: ours {ours.flatten()[at]!r}, torch's {eager.flatten()[at]!r}, exact {exact.flatten()[at]!r}"
        )
