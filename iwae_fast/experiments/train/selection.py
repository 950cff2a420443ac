"""The best epoch of a run by its validation bound, and the end of training for lack of a better one."""

from __future__ import annotations

import math
from typing import NamedTuple


class Best(NamedTuple):
    """The epoch with the highest validation bound so far, of those with the current objective."""

    epoch: int
    """Number of the epoch, from 1."""
    step: int
    """Steps taken up to its end."""
    bound: float
    """Its validation bound in nats; -inf if it is not a number."""


def better(best: Best | None, epoch: int, step: int, bound: float) -> Best:
    """Return the best epoch after another one has ended; of equal epochs the earlier one is better."""
    found = Best(epoch, step, -math.inf if math.isnan(bound) else bound)
    return found if best is None or found.bound > best.bound else best


def is_over(best: Best | None, epoch: int, patience: int | None) -> bool:
    """Return whether training stops after an epoch: none of the last ``patience`` epochs was the best one."""
    return best is not None and patience is not None and epoch - best.epoch >= patience
