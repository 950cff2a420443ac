"""The command line without the ``cli`` extra: ``iwae-fast info``."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence

from .about import collect, sections

NAME_WIDTH = 20


def run_without_extra(arguments: Sequence[str]) -> int | None:
    """Run ``info`` or print help and return the exit code; return None for any other command."""
    if arguments and arguments[0] not in ("info", "--help", "-h"):
        return None
    parser = argparse.ArgumentParser(
        prog="iwae-fast",
        description="Train and evaluate importance-weighted autoencoders.",
        epilog="The other commands (train, evaluate, compare, sample, reproduce, sweep) need "
        "pip install 'iwae_fast[cli]'.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    told = "Print installed versions and available backends, and why others are not available."
    info = commands.add_parser("info", help=told, description=told)
    info.add_argument("--json", action="store_true", help="Print JSON instead of text.")
    try:
        given = parser.parse_args(list(arguments))
    except SystemExit as end:  # argparse has printed the reason
        return int(end.code or 0)
    if given.command is None:
        parser.print_help()
        return 2
    content = collect()
    if given.json:
        print(json.dumps(content, indent=2))
    else:
        print("\n\n".join("\n".join(_line(*row) for row in rows) for rows in sections(content)))
    return 0


def _line(name: str, text: str) -> str:
    return f"{name:<{NAME_WIDTH}}" + textwrap.indent(text, " " * NAME_WIDTH).lstrip()
