"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from . import copy
from .rows import Row

SCALES = {"seconds": (1e3, "ms"), "seconds with Python": (1e3, "ms with Python"), "peak bytes": (2**-20, "MiB")}


def table(rows: Sequence[Row]) -> str:
    """Return a table of each provider's median and quantiles, and each rival's ratio to our best provider.

    If copies are among the rows, as on a GPU, the table also has bandwidths, as fractions of the fastest copy's and of
    that of a copy of as many bytes, and torch.compile's time divided by each provider's.
    """
    fastest = copy.best(rows)
    header = ["op", "shape", "mode", "provider", "median", "10% - 90%", "times ours (95% interval)"]
    columns = [" --- "] * 4 + [" ---: "] * 3
    if fastest:
        header += ["dtype", "GB/s", "of fastest copy", "% of copy", "x compile"]
        columns += [" --- "] + [" ---: "] * 4
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(columns) + "|"]
    for row in rows:
        cells = [row.op, row.shape, row.mode, row.provider, median(row), quantiles(row), ratio(row)]
        if fastest:
            told = row.bytes > 0 and row.metric == "seconds"
            bandwidth = row.bytes / row.median if told else 0.0
            cells += [row.dtype, *((f"{bandwidth / 1e9:.0f}", f"{bandwidth / fastest:.0%}") if told else ("", ""))]
            cells.append("" if row.of_copy is None else f"{row.of_copy:.0%}")
            cells.append("" if row.x_compile is None else f"{row.x_compile:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def median(row: Row) -> str:
    scale, unit = SCALES[row.metric]
    return f"{scale * row.median:.3g} {unit}" if row.metric == "peak bytes" else f"{scale * row.median:.3f} {unit}"


def quantiles(row: Row) -> str:
    scale, _ = SCALES[row.metric]
    return "" if row.rounds == 1 else f"{scale * row.quantile_10:.3f} - {scale * row.quantile_90:.3f}"


def ratio(row: Row) -> str:
    if row.ratio is None:
        return ""
    interval = "" if row.rounds == 1 else f" ({row.ratio_low:.2f} - {row.ratio_high:.2f})"
    return f"{row.ratio:.2f}{interval}"
