"""Work in turns: generators that pause between steps, so that several runs can share a process."""

from __future__ import annotations

from collections.abc import Generator
from enum import Enum, auto
from typing import TypeAlias, TypeVar

import torch

T = TypeVar("T")


class Pause(Enum):
    """The place where a run pauses."""

    STEP = auto()
    """Between two steps of training, or graphs of steps."""
    TRAINED = auto()
    """After training and before its evaluation."""


Turns: TypeAlias = Generator[Pause, None, T]
"""A run in turns. Its exceptions are raised by the turn in which they occur."""


def finish(turns: Turns[T]) -> T:
    """Take all turns at once, and return the result."""
    while True:
        try:
            next(turns)
        except StopIteration as end:
            return end.value


def on_own_stream(turns: Turns[T], device: torch.device) -> Turns[T]:
    """Take turns on a stream of their own if the device is a GPU, so that it can work on those of others meanwhile."""
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    while True:
        with torch.cuda.stream(stream):  # has no effect if there is none
            try:
                pause = next(turns)
            except StopIteration as end:
                return end.value
        yield pause
