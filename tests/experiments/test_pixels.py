"""Tests of binary pixels from gray levels: Bernoulli draws as a function of (seed, index)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iwae_fast.experiments.train import pixels
from iwae_fast.experiments.train.pixels import as_pixels, batches_as_pixels
from iwae_fast.seeds import Purpose

SEED = torch.tensor(2**62 - 1)


def drawn(levels: Tensor, first: int = 0, seed: Tensor = SEED) -> Tensor:
    return batches_as_pixels(levels, seed, torch.arange(len(levels)) + first)


def test_frequencies_are_the_grey_levels() -> None:
    levels = torch.tensor([0.003, 0.2, 0.5, 0.9, 0.998]).expand(40, 2500, 5)
    found = drawn(levels)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    error = (found.mean((0, 1)) - levels[0, 0]) / (levels[0, 0] * (1 - levels[0, 0]) / 1e5).sqrt()
    assert error.abs().max() < 4.5


def test_black_and_white_are_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test also the largest absolute value of the noise, sqrt(2 * 24 log 2) = 5.77."""
    levels = torch.tensor([0.0, 1.0])
    for extreme in (-5.78, 0.0, 5.78):
        monkeypatch.setattr(
            pixels, "standard_normal", lambda shape, *_, extreme=extreme, **__: torch.full(shape, extreme)
        )
        assert torch.equal(drawn(levels.expand(1, 1, 2)), levels.expand(1, 1, 2))


def test_steps_one_by_one_draw_what_several_do() -> None:
    levels = torch.rand(6, 5, 11)
    whole = drawn(levels, first=2**32 - 6)
    for index in range(6):
        assert torch.equal(drawn(levels[index : index + 1], 2**32 - 6 + index), whole[index : index + 1])
    assert not torch.equal(whole[0], whole[1])
    half = torch.full((2, 50, 30), 0.5)
    assert not torch.equal(drawn(half)[0], drawn(half)[1])
    assert not torch.equal(drawn(half), drawn(half, seed=SEED - 1))


def test_fixed_pixels_of_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = torch.rand(25, 9)
    whole = as_pixels(levels, True, 3, Purpose.TEST_PIXELS)
    monkeypatch.setattr(pixels, "ROWS_AT_ONCE", 7)
    assert torch.equal(as_pixels(levels, True, 3, Purpose.TEST_PIXELS), whole)
    assert not torch.equal(as_pixels(levels, True, 3, Purpose.TEST_PIXELS, 1), whole)
    rows = torch.tensor([24, 0, 13, 7])
    assert torch.equal(as_pixels(levels, True, 3, Purpose.TEST_PIXELS, rows=rows), whole[rows])
    assert torch.equal(as_pixels(levels, False, 3, Purpose.TEST_PIXELS), levels)
    assert torch.equal(as_pixels(levels, False, 3, Purpose.TEST_PIXELS, rows=rows), levels[rows])


def test_a_forced_backend_of_models_is_none_of_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw pixels by the CPU backend whichever is forced; others agree up to rounding."""
    levels = torch.rand(2, 100, 40)
    expected = drawn(levels)
    monkeypatch.setenv("IWAE_FAST_BACKEND", "triton")
    assert torch.equal(drawn(levels), expected)
    monkeypatch.setattr(pixels, "best", lambda *_: "reference")
    assert (drawn(levels) != expected).double().mean() < 1e-3
