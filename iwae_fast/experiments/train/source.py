"""Where the steps of a run take their observations from."""

from __future__ import annotations

import torch
from torch import Tensor

from ...data.rows import Observations, Rows

SHARE = 0.5
"""The part of a device's free memory that the training set may take up; the rest is for the steps."""


class Source:
    """The training observations, on the device where they fit into its memory, else in their file.

    Bytes stay bytes, on the device too, and become float32 batch by batch.

    Args:
        observations: (N, D).
        device: the run's.
        free: bytes that are free on it; asked for if None. Rows stay where they are on the CPU then: what is read into
            memory and what stays in a file was decided when they were loaded.
    """

    def __init__(self, observations: Observations, device: torch.device, free: int | None = None) -> None:
        self.device = device
        self.count, self.width = observations.shape
        self.obstacle: str | None = None
        """Why steps cannot be captured; None where nothing of this kind is in the way."""
        self._divisor: float | None = None
        self._held = observations
        if isinstance(observations, Tensor):
            self._held = observations.to(device)
        elif device.type == "cpu" and free is None:
            self.obstacle = "the training observations are on the CPU"
        else:
            self._hold(observations, torch.cuda.mem_get_info(device)[0] if free is None else free)

    def __len__(self) -> int:
        return self.count

    def take(self, rows: Tensor) -> Tensor:
        """Gather the observations of int64 ``rows`` (M,) as float32 (M, D) on the device, which ``rows`` are on too."""
        if isinstance(self._held, Rows):
            return self._held[rows.cpu()].to(self.device)
        found = self._held.index_select(0, rows)
        if found.dtype == torch.uint8:
            found = found.float()
        return found if self._divisor is None else found.div_(self._divisor)

    def _hold(self, rows: Rows, free: int) -> None:
        """Copy rows to the device part by part, unless they are too many."""
        dtype = torch.uint8 if rows.is_bytes else torch.float32
        if rows.shape.numel() * dtype.itemsize > SHARE * free:
            self.obstacle = "the training observations do not fit into the memory of the device"
            return
        held = torch.empty(rows.shape, dtype=dtype, device=self.device)
        first = 0
        for part in rows.chunks(as_bytes=rows.is_bytes):
            held[first : first + len(part)] = part
            first += len(part)
        self._held = held
        if rows.is_bytes:  # other numbers were divided on their way
            self._divisor = rows.divisor
