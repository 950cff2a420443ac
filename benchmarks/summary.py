"""A summary of results as Markdown: one line per workload and provider of this package, one column per rival."""

from __future__ import annotations

from collections.abc import Sequence

from . import copy
from .rows import Row
from .table import median

OURS = ("ours", "estimate")
"""The roles of this package's providers."""


def summary(rows: Sequence[Row]) -> str:
    """Return a table of each rival's time divided by ours, with its 95 % interval if there is one; for a bound, its
    fraction of our time."""
    rivals = list(dict.fromkeys(row.provider for row in rows if row.role not in OURS and row.op != copy.OP))
    lines = [
        "| work | provider | median | " + " | ".join(rivals) + " |",
        "| --- | --- | ---: |" + " ---: |" * len(rivals),
    ]
    for row in rows:
        if row.role in OURS:
            beside = {other.provider: times(other, row) for other in rows if other.work == row.work}
            name = f"{row.op}, {row.mode}, {row.shape}" + ("" if row.dtype == "float32" else f", {row.dtype}")
            cells = [name, row.provider, median(row)]
            lines.append("| " + " | ".join([*cells, *(beside.get(rival, "") for rival in rivals)]) + " |")
    return "\n".join(lines)


def times(rival: Row, ours: Row) -> str:
    ratio = rival.median / ours.median
    if rival.role == "bound":
        return f"{ratio:.0%}"
    interval_applies = rival.ratio is not None and abs(rival.ratio - ratio) < 1e-9
    interval = f" ({rival.ratio_low:.2f} - {rival.ratio_high:.2f})" if interval_applies and ours.rounds > 1 else ""
    return f"{ratio:.2f}{interval}"
