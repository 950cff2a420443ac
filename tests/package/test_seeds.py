"""Tests of derived seeds: repeatable, distinct, in range."""

import pytest
import torch

from iwae_fast.seeds import Purpose, derive_seed, first_seed, generator


def test_values_never_change():
    # Earlier runs could not be repeated or resumed if these moved.
    assert derive_seed(0, Purpose.MODEL) == 4334430513956379144
    assert derive_seed(7, Purpose.LATENTS, 123) == 1440088528550427485
    assert first_seed(0, Purpose.MODEL) == 4334430513956379144 // 2


def test_purpose_numbers_never_change():
    assert {purpose.name: int(purpose) for purpose in Purpose} == {
        "MODEL": 0,
        "ORDER": 1,
        "PIXELS": 2,
        "LATENTS": 3,
        "TEST_PIXELS": 4,
        "EVALUATION": 5,
        "SAMPLES": 6,
        "SPLIT": 7,
        "VALIDATION_PIXELS": 8,
        "VALIDATION": 9,
        "SUBSET": 10,
    }


def test_all_differ():
    keys = [(seed, purpose, index) for seed in (0, 1, 2**62) for purpose in Purpose for index in range(100)]
    seeds = {derive_seed(*key) for key in keys} | {derive_seed(0, purpose) for purpose in Purpose}
    assert len(seeds) == len(keys) + len(Purpose)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("arguments", [(-1, Purpose.MODEL), (2**63, Purpose.MODEL), (0, Purpose.PIXELS, 2**32)])
def test_out_of_range(arguments):
    with pytest.raises(ValueError, match=r"must be in \[0"):
        derive_seed(*arguments)


def test_generator_starts_from_the_seed():
    draws = [torch.rand(5, generator=generator(3, Purpose.PIXELS, step)) for step in (0, 1, 0)]
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])
