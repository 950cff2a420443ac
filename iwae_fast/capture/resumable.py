"""The state of training steps besides those of the model and the optimizer: the seed of the noise and a count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..ops.samples import seed_number, seed_tensor
from ..seeds import Purpose, first_seed


class Resumable:
    """Training steps whose noise is determined by a seed and their number, in a form that any kind of step continues.

    Args:
        seed: an int in [0, 2^63) that determines the noise of all steps; drawn from torch's generator if None.
        device: the device of the steps.
    """

    def __init__(self, seed: int | Tensor | None, device: torch.device) -> None:
        self.seed: Tensor = seed_tensor(first_seed(seed_number(seed), Purpose.LATENTS), device)
        """The seed of the next step's noise, an int64 scalar on the device; each step increments it."""
        self.calls: int = 0
        """The number of steps so far, which is the step passed to a schedule of kl_weight."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state needed to resume a run, in addition to those of the model and the optimizer.

        The entries are "seed", the seed of the next step's noise, and "calls", the number of steps so far. Both are
        ints, suitable for :func:`torch.save` and JSON. Reading the seed forces a device synchronization.
        """
        return {"seed": int(self.seed), "calls": self.calls}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a state returned by :meth:`state_dict`.

        Load the states of the model and the optimizer separately.

        Raises:
            TypeError, ValueError: ``state_dict`` is not such a state.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be what state_dict() returned, got {type(state_dict).__name__}")
        if state_dict.keys() != {"seed", "calls"}:
            raise ValueError(f"state_dict must have 'seed' and 'calls', got {', '.join(map(repr, state_dict))}")
        seed, calls = state_dict["seed"], state_dict["calls"]
        for name, value in (("seed", seed), ("calls", calls)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"state_dict[{name!r}] must be an int, got {type(value).__name__}")
        if calls < 0:
            raise ValueError(f"state_dict['calls'] must be at least 0, got {calls}")
        self.seed.copy_(seed_tensor(seed, torch.device("cpu")))
        self.calls = calls
