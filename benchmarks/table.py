"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from .rows import Row

SCALES = {"seconds": (1e3, "ms"), "seconds with Python": (1e3, "ms with Python"), "peak bytes": (2**-20, "MiB")}


def table(rows: Sequence[Row]) -> str:
    """Return a table of each provider's median and quantiles, and each rival's ratio to our best provider.

    If a copy is among the rows, the table also has bandwidths and their fraction of the copy's.
    """
    copy = next((row.bytes / row.median for row in rows if row.op == "copy"), None)
    header = ["op", "shape", "mode", "provider", "median", "10% - 90%", "times ours (95% interval)"]
    columns = [" --- "] * 4 + [" ---: "] * 3
    if copy:
        header += ["dtype", "GB/s", "of copy"]
        columns += [" --- ", " ---: ", " ---: "]
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(columns) + "|"]
    for row in rows:
        cells = [row.op, row.shape, row.mode, row.provider, median(row), quantiles(row), ratio(row)]
        if copy:
            told = row.bytes > 0 and row.metric == "seconds"
            bandwidth = row.bytes / row.median if told else 0.0
            cells += [row.dtype, *((f"{bandwidth / 1e9:.0f}", f"{bandwidth / copy:.0%}") if told else ("", ""))]
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
