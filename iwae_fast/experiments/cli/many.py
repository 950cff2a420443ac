"""Start of many runs by commands, with printed progress and the last lines of runs that fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from . import Interrupted
from .interrupt import StopFlag
from .invocation import command_line

if TYPE_CHECKING:
    from ..many.launcher import Launcher
    from ..many.runner import RunError, Work

    W = TypeVar("W", bound=Work)


def checked_launcher(template: str | None, jobs: int, device: str | None) -> Launcher | None:
    """Return the launcher of a template; raises ValueError if it, the number of jobs or the device cannot be used."""
    from ... import checks
    from ..many.launcher import Launcher

    if checks.positive("jobs", jobs) > 1 and template is None and device is not None and ":" in device:
        raise ValueError(f"device must be cpu or cuda with several jobs, which take the GPUs in turn, got {device!r}")
    return None if template is None else Launcher.parse(template)


def run_works(
    works: Iterable[W | None],
    folder: Path,
    jobs: int,
    launcher: Launcher | None,
    stop: StopFlag,
    ended: Callable[[W], str | None],
    side_by_side: int = 1,
) -> list[RunError]:
    """Finish all works with their logs in ``folder``; return the errors of those that failed.

    ``ended`` is called with each finished work and returns what is printed beside its name.
    """
    from ..many.runner import Runner
    from .progress import console

    def tell(work: W) -> None:
        beside = ended(work)
        console.print(f"done: {work.name}" + ("" if beside is None else f", {beside}"), markup=False)

    def show(error: RunError) -> None:
        console.print(str(error), markup=False)
        for line in error.last_lines():
            console.print(f"    {line}", markup=False)

    runner: Runner[W] = Runner(folder, jobs, launcher, stop, side_by_side)
    return runner.run_all(works, tell, show)


def end(failures: list[RunError], stop: StopFlag, launcher: Launcher | None) -> None:
    """Raise ValueError if runs failed, or Interrupted with the command that resumes if a signal arrived."""
    if stop():
        queued = "" if launcher is None else ", and what a queue has started goes on"
        raise Interrupted(f"interrupted, everything is saved{queued}; resume with: {command_line()}", stop.number)
    if failures:
        raise ValueError("; ".join(map(str, failures)))
