"""Training steps in one launch, which only GPUs have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import Native


class TrainingSteps(Native):
    """The kernel of :class:`iwae_fast.FusedStep`."""

    def training_steps(self, tensor: Tensor, *arguments: Any) -> None:
        """Take training steps on the device of a tensor: ``training_steps`` in csrc/training_bindings.h."""
        self.run(self.kernels.training_steps, tensor, *arguments)

    def has_cooperative_launch(self, device: torch.device) -> bool:
        """Return True if a GPU can run blocks that wait for each other."""
        with torch.cuda.device(device):
            return bool(self.kernels.has_cooperative_launch())
