"""Tests of parts of Triton kernels that no op exercises separately."""

from __future__ import annotations

import pytest
import torch

from iwae_fast.backends import NATIVE

if (reason := NATIVE["triton"].unavailable()) is not None:
    pytest.skip(reason, allow_module_level=True)

import triton
import triton.language as tl
from iwae_fast.kernels.sums import kahan, over_rows


@triton.jit
def sum_of_a_constant(result, term, count, ROWS: tl.constexpr):
    total = tl.zeros((ROWS, 1), tl.float32)
    error = tl.zeros((ROWS, 1), tl.float32)
    for _ in range(count):
        total, error = kahan(total, error, tl.load(term) + tl.zeros((ROWS, 1), tl.float32))
    tl.store(result + tl.arange(0, 1), over_rows(total, error))


@pytest.mark.parametrize("term", [0.1, -3e-5, float("inf"), float("nan")])
def test_kahan_keeps_digits_and_what_is_not_finite(term: float) -> None:
    device = NATIVE["triton"].device
    result = torch.empty(1, dtype=torch.float64, device=device)
    number = torch.tensor(term, device=device)
    sum_of_a_constant[(1,)](result, number, 1000, ROWS=2)
    exact = 2000 * number.double()
    torch.testing.assert_close(result[0], exact, rtol=1e-9, atol=0, equal_nan=True)
