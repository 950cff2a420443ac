"""Float32 products on tensor cores: the effect of torch's precision setting, and the accuracy by simulation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tolerances
import torch
import torch.nn.functional as F
from torch import Tensor

from iwae_fast.backends import NATIVE

if (reason := NATIVE["triton"].missing()) is not None:
    pytest.skip(reason, allow_module_level=True)

from iwae_fast.kernels.linear_tiles import precision_of


@pytest.fixture
def precision_setting() -> Iterator[None]:
    before = torch.backends.cuda.matmul.fp32_precision
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize(("setting", "expected"), [("highest", "tf32x3"), ("high", "tf32"), ("medium", "tf32")])
def test_torch_says_how_float32_is_multiplied(precision_setting: None, setting: str, expected: str) -> None:
    torch.set_float32_matmul_precision(setting)
    assert precision_of(torch.float32) == expected
    assert {precision_of(d) for d in (torch.float64, torch.bfloat16, torch.float16)} == {"ieee"}


@pytest.mark.parametrize(("setting", "expected"), [("ieee", "tf32x3"), ("tf32", "tf32")])
def test_so_does_its_newer_setting(precision_setting: None, setting: str, expected: str) -> None:
    torch.backends.cuda.matmul.fp32_precision = setting
    assert precision_of(torch.float32) == expected


def to_tf32(numbers: Tensor) -> Tensor:
    """Round to TF32, which stores 10 bits of the mantissa, ties away from zero."""
    return ((numbers.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def cut_off(numbers: Tensor) -> Tensor:
    """Convert float64 to float32, rounding towards zero."""
    rounded = numbers.float()
    return torch.where(rounded.double().abs() > numbers.abs(), rounded.nextafter(torch.zeros(())), rounded)


def tf32x3(left: Tensor, right: Tensor, block: int) -> Tensor:
    """Compute left @ right as tensor cores do: each number in two parts, eight products per step, whose sum with the
    previous ones is truncated to float32. The sums of blocks of columns are added in rounded float32."""
    total = torch.zeros(len(left), right.shape[1])
    for a, b in zip(left.split(block, 1), right.split(block, 0), strict=True):
        a_large, b_large = to_tf32(a), to_tf32(b)
        a_small, b_small = to_tf32(a - a_large), to_tf32(b - b_large)
        part = torch.zeros_like(total)
        for a_part, b_part in ((a_small, b_large), (a_large, b_small), (a_large, b_large)):
            for a_step, b_step in zip(a_part.double().split(8, 1), b_part.double().split(8, 0), strict=True):
                part = cut_off(part + a_step @ b_step)
        total = total + part
    return total


@pytest.mark.parametrize("one_sign", [False, True])
def test_three_products_of_tf32_keep_the_contract(one_sign: bool) -> None:
    """Test the papers' sizes, with terms that cancel and terms that do not."""
    rows, columns, features = 128, 200, 784
    hidden, weight = torch.randn(rows, columns).tanh(), torch.randn(features, columns) / columns**0.5
    if one_sign:
        hidden, weight = hidden.abs(), weight.abs()
    value, bias = torch.rand(rows, features).round(), torch.randn(features)

    logits, exact_logits = tf32x3(hidden, weight.T, 16) + bias, hidden.double() @ weight.double().T + bias
    log_prob, eager, exact = (
        (value * t + F.logsigmoid(-t)).sum(-1) for t in (logits.double(), F.linear(hidden, weight, bias), exact_logits)
    )
    terms = value * exact_logits.abs() + F.softplus(exact_logits)
    tolerances.assert_no_worse(log_prob, eager, exact, tolerances.sum_allowance(torch.float32, terms))

    slopes = value - torch.sigmoid(logits)
    for left, right in ((slopes, weight), (slopes.T.contiguous(), hidden)):
        exact_sum = left.double() @ right.double()
        ours, in_one_sum, eager = (
            (product - exact_sum).abs().max()
            for product in (tf32x3(left, right, 16), tf32x3(left, right, left.shape[1]), left @ right)
        )
        assert ours <= eager + tolerances.ROUNDINGS_A_TERM * 2.0**-24 * exact_sum.abs().max()
        assert in_one_sum > 2 * ours  # which is why kernels add outside the tensor cores
