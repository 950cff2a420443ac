"""Tests of normalized_weights and effective_sample_size."""

from __future__ import annotations

import math

import pytest
import torch

import iwae_fast as iw


def test_weights_are_the_softmax() -> None:
    log_weights = 5 * torch.randn(50, 4, 3, dtype=torch.float64)
    for dim in (0, 1, -1):
        torch.testing.assert_close(iw.normalized_weights(log_weights, dim), log_weights.softmax(dim))


def test_effective_sample_size_of_known_weights() -> None:
    log_weights = torch.tensor([[0.0, 0.0, -math.inf], [0.0, -math.inf, -math.inf], [0.0, math.log(3.0), -math.inf]])
    torch.testing.assert_close(iw.effective_sample_size(log_weights), torch.tensor([3.0, 1.6, 0.0]))
    assert torch.equal(iw.normalized_weights(log_weights)[:, 2], torch.zeros(3))


def test_half_precision_is_widened() -> None:
    log_weights = torch.randn(7, 2).bfloat16()
    assert iw.normalized_weights(log_weights).dtype == torch.float32
    torch.testing.assert_close(iw.normalized_weights(log_weights), log_weights.float().softmax(0))


def test_column_of_minus_infinity_has_zero_gradient() -> None:
    log_weights = torch.full((3, 2), -math.inf)
    log_weights[:, 1] = torch.randn(3)
    log_weights.requires_grad_()
    iw.normalized_weights(log_weights).square().sum().backward()
    assert torch.equal(log_weights.grad[:, 0], torch.zeros(3))
    assert log_weights.grad[:, 1].abs().sum() > 0


def test_nan_stays() -> None:
    log_weights = torch.tensor([[math.nan, 0.0], [0.0, 0.0]])
    assert iw.effective_sample_size(log_weights).isnan().tolist() == [True, False]


def test_no_samples() -> None:
    with pytest.raises(ValueError, match="k = 0"):
        iw.effective_sample_size(torch.ones(0, 3))
    with pytest.raises(TypeError, match="int64"):
        iw.normalized_weights(torch.ones(3, dtype=torch.int64))
