"""Data that the runs of one process share: each data set is loaded once, and copied to a device once."""

from __future__ import annotations

import torch

from ...data import ImageData
from ...data.rows import Observations
from ..config import TrainConfig
from .pixels import split
from .source import Source


class SharedData:
    """The data of the runs of one process, which stay in memory as long as this object. A run alone has its own."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, str], ImageData] = {}
        self._splits: dict[tuple[int, int], tuple[Observations, Observations | None]] = {}
        self._sources: dict[tuple[int, torch.device], Source] = {}
        # Objects are known by their ids, which must not be given to others.
        self._known: list[ImageData] = []

    def load(self, config: TrainConfig, dataset: str | None = None) -> ImageData:
        """Return the data of a run, as :meth:`TrainConfig.load_data` does."""
        key = config.dataset if dataset is None else dataset, config.likelihood
        if key not in self._loaded:
            self._loaded[key] = config.load_data(dataset)
        return self._loaded[key]

    def split(self, data: ImageData, validation: int) -> tuple[Observations, Observations | None]:
        """Return the training observations and the held-out ones, as :func:`.pixels.split` does."""
        key = id(data), validation
        if key not in self._splits:
            self._splits[key] = split(data, validation)
            self._known.append(data)
        return self._splits[key]

    def source(self, train: Observations, device: torch.device) -> Source:
        """Return training observations that :meth:`split` returned, on a device."""
        key = id(train), device
        if key not in self._sources:
            self._sources[key] = Source(train, device)
            if device.type == "cuda":
                # Other streams read what this one copies.
                torch.cuda.current_stream(device).synchronize()
        return self._sources[key]
