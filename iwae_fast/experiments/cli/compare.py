"""``iwae-fast compare RUN RUN ...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .invocation import command_line


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN ...", help="Folders of evaluated runs.")],
    html: Annotated[Path | None, typer.Option(help="Write a page too.", show_default="none")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the numbers too.", show_default="none")] = None,
) -> None:
    """Put evaluated runs side by side, with differences to the first.

    Runs are compared where they were evaluated on the same test images with as many samples, image by image; of several
    evaluations of a run the one that allows it is taken. Elsewhere the reason is said.
    """
    from ...files import write_json
    from ..evaluate.comparison import compare_runs
    from ..report import write_comparison
    from .comparison_table import print_comparison
    from .progress import console
    from .unused import check_suffix

    if len(runs) < 2:
        raise ValueError(f"compare needs at least 2 runs, got {len(runs)}")
    if html is not None:
        check_suffix("--html", html, ".html", ".htm")
    if json is not None:
        check_suffix("--json", json, ".json")
    summaries = compare_runs(runs)
    print_comparison(summaries)
    if json is not None:
        write_json(json, {"runs": [summary.to_json() for summary in summaries]})
    if html is not None:
        write_comparison(html, summaries, command_line())
        console.print(str(html))
