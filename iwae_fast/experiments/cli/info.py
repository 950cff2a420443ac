"""``iwae-fast info``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print installed versions and available backends, and why others are not available."""
    from .about import collect

    content = collect()
    if as_json:
        print(json.dumps(content, indent=2))
    else:
        from .progress import console

        console.print(_table(content))


def _table(content: dict[str, Any]) -> Table:
    from rich.table import Table

    from .about import sections

    table = Table(show_header=False, title="iwae_fast", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for rows in sections(content):
        for row in rows:
            table.add_row(*row)
        table.add_section()
    return table
