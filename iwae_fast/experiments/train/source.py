"""The training observations from which steps take their batches."""

from __future__ import annotations

import torch
from torch import Tensor

from ...data.rows import Observations, Rows

SHARE = 0.5
"""The fraction of a device's free memory that the training set may occupy; the rest is for the steps."""


class Source:
    """The training observations, on the device if they fit into its memory, else in their file.

    Bytes stay bytes on the device too, and are converted to float32 batch by batch.

    Args:
        observations: (N, D).
        device: device of the run.
        free: free memory of the device in bytes. If None it is queried on a GPU, and on the CPU :class:`.rows.Rows` are
            not copied, because loading has already decided which arrays are read into memory.
    """

    def __init__(self, observations: Observations, device: torch.device, free: int | None = None) -> None:
        self.device = device
        self.count, self.width = observations.shape
        self.obstacle: str | None = None
        """The reason why steps cannot be captured with these observations; None if they can."""
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

    @property
    def resident(self) -> tuple[Tensor, float] | None:
        """The observations on the device and the number by which bytes are divided; None if they are in their file."""
        if isinstance(self._held, Rows):
            return None
        return self._held, 1.0 if self._divisor is None else self._divisor

    def take(self, rows: Tensor) -> Tensor:
        """Gather the observations of int64 ``rows`` (M,), on the device, as float32 (M, D) on the device."""
        if isinstance(self._held, Rows):
            return self._held[rows.cpu()].to(self.device)
        found = self._held.index_select(0, rows)
        if found.dtype == torch.uint8:
            found = found.float()
        return found if self._divisor is None else found.div_(self._divisor)

    def _hold(self, rows: Rows, free: int) -> None:
        """Copy rows to the device chunk by chunk, unless they exceed SHARE of the free memory."""
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
        if rows.is_bytes:  # float32 rows were divided when they were indexed
            self._divisor = rows.divisor
