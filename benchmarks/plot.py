"""A picture of speed-ups over torch eager: the ops on the left, training steps and evaluation on the right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .rows import Row
from .work import BASELINE

COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")
"""Okabe and Ito's, which colour-blind readers can tell apart."""

WHOLES = ("step", "evaluation")


def draw(rows: Sequence[Row], path: Path) -> None:
    """Bars of medians with 95 % bootstrap intervals; hatched where a provider does less, or with more noise."""
    shown = [row for row in rows if row.metric == "seconds" and row.speedup is not None and row.provider != BASELINE]
    if not shown:
        raise ValueError(f"no row has a speed-up over {BASELINE!r}")
    colors = dict(zip(dict.fromkeys(family(row) for row in shown), COLORS * len(shown), strict=False))
    panels = [[row for row in shown if (row.op in WHOLES) == whole] for whole in (False, True)]
    panels = [panel for panel in panels if panel]
    height = max(len(panel) + 0.8 * len({row.work for row in panel}) for panel in panels)
    figure = Figure(figsize=(6.6 * len(panels), 1.3 + 0.21 * height), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw_bars(axes, panel, colors)
    hatches = {family(row): hatch(row) for row in shown}
    figure.legend(
        [Patch(facecolor=color, hatch=hatches[name], edgecolor="white") for name, color in colors.items()],
        list(colors),
        loc="outside upper center",
        ncols=min(len(colors), 5),
        frameon=False,
        fontsize=9,
    )
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=130, facecolor="white")


def draw_bars(axes: Axes, rows: Sequence[Row], colors: dict[str, str]) -> None:
    position, ticks = 0.0, {}
    for work in dict.fromkeys(row.work for row in rows):
        group = [row for row in rows if row.work == work]
        ticks[position + (len(group) - 1) / 2] = label(group[0])
        for row in group:
            value, low, high = row.speedup or 0.0, row.speedup_low or 0.0, row.speedup_high or 0.0
            axes.barh(position, value, 0.86, color=colors[family(row)], hatch=hatch(row), edgecolor="white")
            axes.hlines(position, low, high, color="black", linewidth=1.0)
            axes.annotate(
                f"{value:.2g}" if value < 10 else f"{value:.0f}",
                (max(value, high), position),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
            position += 1.0
        position += 0.8
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=8.5)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.01)
    axes.set_xlabel("times as fast as torch eager")
    axes.grid(axis="x", color="#e3e3e3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def family(row: Row) -> str:
    """Ours has one name whatever the backend."""
    return "iwae_fast" if row.role == "ours" and row.op not in WHOLES else row.provider


def label(row: Row) -> str:
    return f"{row.op} ({row.mode})\n{row.shape}"


def hatch(row: Row) -> str:
    return "////" if row.role in ("bound", "estimate") else ""
