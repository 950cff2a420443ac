"""A function that is called a few times, and replayed from then on."""

from __future__ import annotations

from typing import Any

from .recorder import Function, Recorder, Recording

REHEARSALS = 2
"""Runs before a recording. The first compiles kernels and allocates what is allocated once, which may wait for the
device; the second shows whether the function itself does. Both are real: what they do is done."""


class Program:
    """Each call does what the function does, by a replay as soon as there is one.

    Args:
        function: all that changes from call to call it reads from tensors, and all it does it does to tensors: what its
            Python does happens in the first calls only.
        recorder: None to call the function always.
    """

    def __init__(self, function: Function, recorder: Recorder | None) -> None:
        self.function = function
        self.recorder = recorder
        self.reason: str | None = None
        """Why the function is called for good, once it turned out that it cannot be recorded."""
        self._rehearsals = 0
        self._recording: Recording | None = None

    @property
    def recorded(self) -> bool:
        """Whether the last call was a replay."""
        return self._recording is not None

    def __call__(self) -> Any:
        """What the function returned; of a replay, the same tensors each time, with new content."""
        if self._recording is None and self.recorder is not None:
            if self._rehearsals < REHEARSALS:
                return self._rehearse(self.recorder)
            self._record(self.recorder)
        if self._recording is None:
            return self.function()
        self._recording.replay()
        return self._recording.result

    def _rehearse(self, recorder: Recorder) -> Any:
        result, reason = recorder.rehearse(self.function)
        self._rehearsals += 1
        if self._rehearsals == REHEARSALS and reason is not None:
            self._give_up(reason)
        return result

    def _record(self, recorder: Recorder) -> None:
        try:
            self._recording = recorder.record(self.function)
        except Exception as error:  # whatever it is, the function itself can still be called
            self._give_up(_told(error))

    def _give_up(self, reason: str) -> None:
        self.reason, self.recorder = reason, None


def _told(error: BaseException) -> str:
    """What came first: the end of a capture that failed raises too."""
    while error.__context__ is not None:
        error = error.__context__
    first_line, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first_line}"
