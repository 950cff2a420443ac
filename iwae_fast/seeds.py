"""Seeds: every random number of a run is a function of (run seed, purpose, index), so no generator state is saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch

INDEX_LIMIT = 2**32
SEED_LIMIT = 2**63


class Purpose(IntEnum):
    """The purpose of a seed. Runs are repeatable only if these numbers stay: never change or reuse one."""

    MODEL = 0
    """Initial parameters."""
    ORDER = 1
    """Permutation of an epoch; index: epoch."""
    PIXELS = 2
    """Bernoulli pixels of training batches; the step is an index of their noise."""
    LATENTS = 3
    """Latent noise of training batches, by :func:`first_seed` plus the step."""
    TEST_PIXELS = 4
    """Bernoulli pixels of the test set."""
    EVALUATION = 5
    """Latent noise of the test likelihood."""
    SAMPLES = 6
    """Latents of model samples."""
    SPLIT = 7
    """Division of a data set into training and test observations."""
    VALIDATION_PIXELS = 8
    """Bernoulli pixels of the validation set."""
    VALIDATION = 9
    """Latent noise of the validation bound."""
    SUBSET = 10
    """The order whose beginnings are the random subsets of a data set."""


def derive_seed(seed: int, purpose: Purpose, *indices: int) -> int:
    """Return an independent seed in [0, 2^63) for each (seed, purpose, indices).

    Args:
        seed: the run's seed, in [0, 2^63).
        purpose: the use of the seed.
        indices: for example an epoch or a step, each in [0, 2^32).

    Raises ValueError for a number out of range.
    """
    if not 0 <= seed < SEED_LIMIT:
        raise ValueError(f"seed must be in [0, 2^63), got {seed}")
    for index in indices:
        # SeedSequence splits larger numbers into 32-bit words, so two different keys could collide.
        if not 0 <= index < INDEX_LIMIT:
            raise ValueError(f"indices must be in [0, 2^32), got {index}")
    sequence = np.random.SeedSequence(seed, spawn_key=(int(purpose), *indices))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def first_seed(seed: int, purpose: Purpose) -> int:
    """Return the seed of step 0; the seed of step t is this plus t, which the GPU can add without the host.

    It is in [0, 2^62), so that no sum exceeds 64 bits. Consecutive seeds are as independent as any two, because they
    are keys of Philox.
    """
    return derive_seed(seed, purpose) >> 1


def generator(seed: int, purpose: Purpose, *indices: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator on ``device``, seeded by :func:`derive_seed`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, purpose, *indices))


def number_of(seed: int, *indices: int) -> int:
    """Return an independent seed in [0, 2^64) for each (seed, indices), with indices in [0, 2^32)."""
    return int(np.random.SeedSequence(seed, spawn_key=indices).generate_state(1, np.uint64)[0])


@contextmanager
def torch_seeded(seed: torch.Tensor | int, *indices: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's generators of the CPU and of a device from (seed, indices), and restore them afterwards.

    Args:
        seed: in [0, 2^63); an int64 scalar tensor is read, which synchronizes with its device.
        indices: each in [0, 2^32).
        device: the device; that of a seed that is a tensor if None.
    """
    if device is None and isinstance(seed, torch.Tensor):
        device = seed.device
    number = number_of(int(seed), *indices)
    devices = [device.index] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(number)
        for index in devices:
            torch.cuda.default_generators[index].manual_seed(number)
        yield
