"""``iwae-fast side-by-side PLAN``: several commands in one process, by which sweeps and tables share a GPU.

The runs are trained in turns, each on a stream of its own, so that a GPU works on all of them at the same time. What
follows training is done one run after the other.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import INTERRUPTED, SIGNALED, USAGE, Interrupted, Terminated, is_expected, one_line
from .interrupt import StopFlag, stop_on_signals
from .invocation import invoked_with

if TYPE_CHECKING:
    from ..many.plan import Command
    from ..train.turns import Pause, Turns
    from .training_run import Company


def side_by_side(plan: Annotated[Path, typer.Argument(metavar="PLAN", help="File that a runner has written.")]) -> None:
    """Run the commands of a plan in this process, which a sweep or a table has started."""
    from ..many.plan import Plan
    from .training_run import Company

    found = Plan(plan)
    with stop_on_signals() as stop:
        company = Company(stop=stop)
        members = [Member(command, turns_of(command.arguments, company)) for command in found.commands()]
        train_in_turns(members)
    close_one_by_one(members, stop)
    found.write_codes({member.command.name: member.code or 0 for member in members})
    if any(member.is_interrupted for member in members):
        raise Interrupted("interrupted, everything is saved", stop.number)
    failed = [member.command.name for member in members if member.code]
    if failed:
        raise ValueError(f"{len(failed)} of {len(members)} commands failed: {', '.join(failed)}")


class Member:
    """A command and how far it is.

    Args:
        command: the command, whose output goes to its log.
        turns: its turns.
    """

    def __init__(self, command: Command, turns: Turns[None]) -> None:
        self.command, self.turns = command, turns
        self.pause: Pause | None = None
        """The place where it pauses; None before its first turn."""
        self.code: int | None = None
        """Its exit code, once it has ended."""
        self._log = open(command.log, "a")  # noqa: SIM115 (until the command ends)

    @property
    def is_interrupted(self) -> bool:
        """True if a signal has ended it."""
        return self.code is not None and self.code > SIGNALED

    def take_turn(self, interruption: BaseException | None = None) -> None:
        """Take a turn with output in the command's log, or raise an interruption where it pauses.

        An error ends the command, and is shown in its log as it is for a command alone.
        """
        with redirect_stdout(self._log), redirect_stderr(self._log), invoked_with(self.command.arguments):
            try:
                self.pause = next(self.turns) if interruption is None else self.turns.throw(interruption)
            except StopIteration:
                self._end(None, 0)
            except (Interrupted, Terminated) as error:
                self._end(str(error), SIGNALED + error.number)
            except KeyboardInterrupt:
                self._end("interrupted", INTERRUPTED)
            except Exception as error:
                self._end(one_line(error) if is_expected(error) else traceback.format_exc(), USAGE)

    def _end(self, message: str | None, code: int) -> None:
        if message is not None:
            print(f"iwae-fast: {message}")
        self._log.close()
        self.code = code


def train_in_turns(members: Sequence[Member]) -> None:
    """Train all runs in turns, until each has ended or is trained."""
    from ..train.turns import Pause

    training = list(members)
    while training:
        for member in training:
            member.take_turn()
        training = [member for member in training if member.code is None and member.pause is Pause.STEP]


def close_one_by_one(members: Sequence[Member], stop: StopFlag) -> None:
    """Finish what follows training; if a signal arrives, or has arrived, interrupt what is left."""
    for member in members:
        while member.code is None:
            if stop():
                member.take_turn(KeyboardInterrupt() if stop.number == signal.SIGINT else Terminated(stop.number))
            else:
                member.take_turn()
        if member.is_interrupted and not stop():
            stop.set, stop.number = True, member.code - SIGNALED


def turns_of(arguments: Sequence[str], company: Company) -> Turns[None]:
    """Return a command in turns: a training run, or any other command, which runs when all runs are trained."""
    from ..train.turns import Pause
    from .app import run_app
    from .training_run import begin_or_resume, collected_requests

    if arguments[:1] != ["train"]:
        yield Pause.TRAINED
        run_app(arguments)
        return
    with collected_requests() as requests:
        run_app(arguments)
    for asked in requests:
        yield from begin_or_resume(asked, company=company)
