"""The application that combines the commands.

The modules of the commands only declare arguments; they import the implementation when they are called, because torch
takes seconds to import and neither help nor completion needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from ..._version import __version__
from ..launched import number_of_processes
from . import INTERRUPTED, USAGE
from .compare import compare
from .evaluate import evaluate
from .info import info
from .invocation import invoked_with
from .reproduce import reproduce
from .sample import sample
from .side_by_side import side_by_side
from .sweep import sweep
from .train import train

# Click's base class of errors about arguments; recent versions of typer vendor click.
UsageError: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

PARALLEL = ("train", "evaluate")
"""Commands that several processes run together."""

app = typer.Typer(no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"iwae_fast {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 (its callback acts)
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Train and evaluate importance-weighted autoencoders."""
    command = context.invoked_subcommand
    if number_of_processes() > 1 and command not in PARALLEL:
        raise ValueError(f"{command} runs in one process: start it without torchrun, which is for train and evaluate")


for command in (train, evaluate, compare, sample, reproduce, sweep, info):
    app.command()(command)
app.command(hidden=True)(side_by_side)  # for runners


def run_app(arguments: Sequence[str] | None) -> int:
    """Run a command and return its exit code; exceptions propagate, those about arguments as ValueError."""
    try:
        with invoked_with(arguments):
            code = app(arguments, prog_name="iwae-fast", standalone_mode=False)
    except typer.Abort:  # older versions of typer convert Ctrl-C to this
        raise KeyboardInterrupt from None
    except UsageError as error:
        message = error.format_message()  # type: ignore[attr-defined]
        if not message:  # no command was given: typer has shown the help
            return USAGE
        raise ValueError(message) from error
    if code == INTERRUPTED:  # newer versions of typer convert Ctrl-C to this
        raise KeyboardInterrupt
    return code or 0
