"""A function that is called a few times, then captured and replayed."""

from __future__ import annotations

from typing import Any

from .recorder import Function, Recorder, Recording

REHEARSALS = 2
"""The number of runs before a recording. The first compiles kernels and makes one-time allocations, which may
synchronize; the second shows whether the function itself synchronizes. Both perform real updates."""


class Program:
    """A function whose calls are replaced by replays of a recording as soon as there is one.

    Args:
        function: must read everything that varies between calls from tensors, and write its results to tensors: its
            Python code runs in the first calls only.
        recorder: None to always call the function.
    """

    def __init__(self, function: Function, recorder: Recorder | None) -> None:
        self.function = function
        self.recorder = recorder
        self.reason: str | None = None
        """The reason why the function cannot be recorded and is always called, or None."""
        self._rehearsals = 0
        self._recording: Recording | None = None

    @property
    def recorded(self) -> bool:
        """True if calls are replays."""
        return self._recording is not None

    def __call__(self) -> Any:
        """Run the function or its recording, and return its result.

        All replays return the same tensors, with new content.
        """
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
        except Exception as error:  # after any failure the function itself can still be called
            self._give_up(_root_cause(error))

    def _give_up(self, reason: str) -> None:
        self.reason, self.recorder = reason, None


def _root_cause(error: BaseException) -> str:
    """Describe the innermost error: ending a failed capture raises as well."""
    while error.__context__ is not None:
        error = error.__context__
    first_line, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first_line}"
