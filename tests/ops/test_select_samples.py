"""Tests of select_samples: the samples of a budget in one launch."""

from __future__ import annotations

import math

import pytest
import torch
from devices import BACKENDS, COMPILED, device_of, place
from torch import Tensor

from iwae_fast.objectives.budgets import Selection, within_budget
from iwae_fast.objectives.estimators import Scales
from iwae_fast.objectives.routing import with_ratio
from iwae_fast.ops.samples import standard_normal
from iwae_fast.ops.scales import select_samples

OFFERING = [backend for backend in BACKENDS if backend.values[0] != "cpu"]
"""The CPU composes the same of operations of torch."""

ROUNDING = 1e-3
STREAM, FIRST = 2**31, 5


def composed(decoder: Tensor, encoder: Tensor, seed: int, budget: int) -> Selection:
    """Return the selection by operations of torch, with the same noise."""
    normal = standard_normal((*decoder.shape, 2), seed, observation_offset=FIRST, stream=STREAM, dtype=torch.float64)
    return within_budget(Scales(decoder, encoder), budget, 0.5 * normal.square().sum(-1))


def selected(backend: str, decoder: Tensor, encoder: Tensor, seed: int, budget: int) -> list[Tensor]:
    device = device_of(backend)
    inputs = [place(t, device) for t in (decoder, encoder, torch.tensor(seed))]
    return [t.cpu() for t in select_samples(*inputs, budget, FIRST, STREAM, ROUNDING, backend=backend)]


@pytest.mark.parametrize("backend", OFFERING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_against_the_composition(backend: str, dtype: torch.dtype) -> None:
    for k, budget in ((1, 1), (9, 1), (9, 4), (50, 8), (300, 3), (7, 7)):
        # Distinct numbers: equal ones may be chosen in any order.
        decoder, encoder = (t.to(dtype).double() for t in torch.randn(2, k, 6))
        ours, *scales, ratio, used = selected(backend, decoder.to(dtype), encoder.to(dtype), 3, budget)
        expected = composed(decoder, encoder, 3, budget)
        raised, expected_ratio = with_ratio(expected.scales, ROUNDING)
        assert torch.equal(ours, expected.samples)
        assert torch.equal(used, expected.num_used)
        close = {"rtol": 1e-5, "atol": 1e-6, "check_dtype": False}
        torch.testing.assert_close(scales, list(raised), **close)
        torch.testing.assert_close(ratio, expected_ratio, **close)


@pytest.mark.parametrize("backend", OFFERING)
def test_strided_scales(backend: str) -> None:
    decoder, encoder = torch.randn(6, 20).T, torch.randn(40, 12)[::2, ::2]
    ours = selected(backend, decoder, encoder, 1, 5)
    contiguous = selected(backend, decoder.contiguous(), encoder.contiguous(), 1, 5)
    assert all(torch.equal(a, b) for a, b in zip(ours, contiguous, strict=True))


@pytest.mark.parametrize("backend", OFFERING)
def test_nothing_is_drawn_from_nothing(backend: str) -> None:
    some, none = torch.tensor([[0.0], [2.0], [0.0]]), torch.zeros(3, 1)
    samples, decoder, _, _, used = selected(backend, some, some, 1, 2)
    assert samples[0] == 1
    assert decoder.tolist() == [[2.0], [0.0]]
    assert used.tolist() == [1]
    samples, decoder, encoder, ratio, used = selected(backend, none, none, 1, 2)
    assert ((samples >= 0) & (samples < 3)).all()
    for result in (decoder, encoder, ratio, used):
        assert not result.any()


@pytest.mark.parametrize("backend", OFFERING)
def test_nan_reaches_the_scales(backend: str) -> None:
    scales = torch.rand(5, 2)
    scales[3, 0] = math.nan
    samples, decoder, *_ = selected(backend, scales, scales, 1, 3)
    assert decoder[:, 0].isnan().any()
    assert decoder[:, 1].isfinite().all()
    assert ((samples >= 0) & (samples < 5)).all()


@pytest.mark.parametrize("backend", [backend for backend in OFFERING if backend in COMPILED])
def test_the_drawn_sample_stands_for_the_rest(backend: str) -> None:
    """Compare the mean over many observations with the scales, within 5 standard errors."""
    k, draws = 5, 2000
    decoder, encoder = (t.expand(k, draws) for t in torch.randn(2, k, 1, dtype=torch.float64))
    samples, *scales, _, _ = selected(backend, decoder, encoder, 2, 2)
    for chosen, exact in zip(scales, (decoder, encoder), strict=True):
        found = torch.zeros(k, draws, dtype=torch.float64).scatter_add(0, samples, chosen)
        error = found.std(1) / draws**0.5
        assert ((found.mean(1) - exact[:, 0]).abs() <= 5 * error + 1e-3 * exact.abs().max()).all()
        assert (error > 0).sum() >= k - 1
