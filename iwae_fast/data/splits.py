"""Split of data sets that come without one: a permutation with a fixed seed, the same for every run."""

from __future__ import annotations

import torch
from torch import Tensor

from ..seeds import Purpose, generator

SPLIT_SEED = 0


def split(count: int, test: int, train: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the indices of ``train`` (all others if None) training and ``test`` test observations out of ``count``."""
    order = torch.randperm(count, generator=generator(SPLIT_SEED, Purpose.SPLIT))
    return order[test:][:train], order[:test]
