"""The command line with a checkpoint after every step, killed at a given line during training if asked to."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from iwae_fast import files
from iwae_fast.experiments.cli import main
from iwae_fast.experiments.train import checkpoint, metrics, training

WATCHED = {module.__file__ for module in (checkpoint, files, metrics, training)}


def command_line(arguments: list[str], lines: int | None) -> None:
    """Run the command line with a checkpoint after every step; kill it ``lines`` lines after the first step starts,
    unless None."""
    training.SAVE_SECONDS = training.SAVE_WITHIN_EPOCH_SECONDS = 0.0
    if lines is not None:
        take_steps, trace = training.Trainer.take_steps, kill_after(lines)

        def watched_steps(trainer: training.Trainer) -> None:
            sys.settrace(trace)
            take_steps(trainer)

        training.Trainer.take_steps = watched_steps  # type: ignore[method-assign]
    main(arguments)


def kill_after(lines: int) -> Callable[[FrameType, str, Any], Any]:
    """Return a trace function that kills the process after ``lines`` lines of the watched modules.

    Lines of comprehensions are not counted.
    """
    left = lines

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in WATCHED or frame.f_code.co_name.startswith(
            "<"
        ):  # a comprehension, which has many line events
            return None
        left -= event == "line"
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


if __name__ == "__main__":  # as torchrun starts it
    command_line(sys.argv[1:], None)
