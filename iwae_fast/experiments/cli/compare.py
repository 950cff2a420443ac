"""``iwae-fast compare RUN RUN ...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .invocation import command_line


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN ...", help="Folders of evaluated runs.")],
    html: Annotated[
        Path | None, typer.Option(help="Also write an HTML page to this file.", show_default="none")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Also write the numbers to this JSON file.", show_default="none")
    ] = None,
) -> None:
    """Compare evaluated runs, with differences to the first.

    Differences are paired per image and require evaluations on the same test images with the same number of samples. If
    a run has several evaluations, a matching one is used. If there is none, the reason is printed.
    """
    from ...files import write_json
    from ..evaluate.comparison import compare_runs
    from ..report import write_comparison
    from ..unused import check_suffix
    from .comparison_table import print_comparison
    from .progress import console

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
