"""``iwae-fast compare RUN RUN ...``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .invocation import command_line

if TYPE_CHECKING:
    from rich.table import Table

    from ..experiments.comparison import Summary


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN ...", help="Folders of evaluated runs.")],
    html: Annotated[Path | None, typer.Option(help="Write a page too.", show_default="none")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the numbers too.", show_default="none")] = None,
) -> None:
    """Put evaluated runs side by side, with differences to the first.

    The standard error of a difference is paired, where both runs were evaluated on the same test images.
    """
    from ..experiments.comparison import compare_runs
    from ..files import write_json
    from ..report import write_comparison
    from .progress import console

    if len(runs) < 2:
        raise ValueError(f"compare needs at least 2 runs, got {len(runs)}")
    summaries = compare_runs(runs)
    console.print(_table(summaries))
    if json is not None:
        write_json(json, {"runs": [summary.to_json() for summary in summaries]})
    if html is not None:
        write_comparison(html, summaries, command_line())
        console.print(str(html))


def _table(summaries: Sequence[Summary]) -> Table:
    from rich.table import Table

    table = Table()
    for left in ("run", "data set", "likelihood", "bound"):
        table.add_column(left, overflow="fold")
    for right in ("k", "units", "epochs", "test NLL", "difference", "train NLL", "active", "ESS", "training"):
        table.add_column(right, justify="right")
    for summary in summaries:
        table.add_row(*_cells(summary))
    return table


def _cells(summary: Summary) -> list[str]:
    from ..report.page import duration, fixed, plain, signed

    difference = summary.difference
    active = summary.active_units
    return [
        summary.run,
        summary.dataset,
        summary.likelihood,
        summary.bound,
        str(summary.k),
        "+".join(map(str, summary.latent)),
        plain(summary.epochs),
        f"{fixed(summary.nll, 3)} ± {fixed(summary.std_error, 3)}",
        plain(None) if difference is None else f"{signed(difference.nll, 3)} ± {fixed(difference.std_error, 3)}",
        fixed(summary.train_nll, 3),
        plain(None) if active is None else "+".join(map(str, active)),
        f"{fixed(summary.ess, 1)} of {summary.eval_k}",
        duration(summary.seconds),
    ]
