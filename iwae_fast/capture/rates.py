"""Learning rates in device memory, where a graph reads them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Rates:
    """The learning rates of an optimizer's groups, as float32 tensors on the device.

    Used as a context manager, it puts the tensors into the groups while a step runs. Outside of steps the groups keep
    their own values, so schedulers and ``state_dict()`` are not affected; :meth:`sync` copies changed values to the
    tensors. float32 is the dtype that torch's fused optimizers read.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device) -> None:
        self.optimizer = optimizer
        self.device = device
        self._tensors: list[Tensor] = []
        self._numbers: list[float | None] = []
        self._own: list[Any] = []

    def sync(self) -> None:
        """Copy the groups' learning rates to the tensors, without a device synchronization."""
        for index, group in enumerate(self.optimizer.param_groups):
            if index == len(self._tensors):
                self._tensors.append(torch.zeros((), device=self.device))
                self._numbers.append(None)
            rate = group["lr"]
            if isinstance(rate, Tensor) and rate.device.type != "cpu":
                self._tensors[index].copy_(rate.squeeze())
                self._numbers[index] = None
            elif (number := float(rate)) != self._numbers[index]:
                self._tensors[index].fill_(number)
                self._numbers[index] = number

    def __enter__(self) -> None:
        self._own = [group["lr"] for group in self.optimizer.param_groups]
        for group, tensor in zip(self.optimizer.param_groups, self._tensors, strict=True):
            group["lr"] = tensor

    def __exit__(self, *_: object) -> None:
        for group, own in zip(self.optimizer.param_groups, self._own, strict=True):
            group["lr"] = own
