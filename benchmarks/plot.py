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

STYLES = {
    "ours": ("iwae_fast", "#d55e00", ""),
    "estimate": ("iwae_fast, a noisier estimate", "#d55e00", "////"),
    "rival": ("others", "#0072b2", ""),
    "bound": ("part of the work: a limit", "#999999", "////"),
}
"""Name, color and hatch of each role. The colors are from Okabe and Ito's palette for color-blind readers."""

WHOLES = ("step", "evaluation")


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw bars of speed-ups, with 95 % bootstrap intervals."""
    shown = [row for row in rows if row.metric == "seconds" and row.speedup is not None and row.provider != BASELINE]
    if not shown:
        raise ValueError(f"no row has a speed-up over {BASELINE!r}")
    panels = [[row for row in shown if (row.op in WHOLES) == whole] for whole in (False, True)]
    panels = [panel for panel in panels if panel]
    height = max(len(panel) + 1.6 * len({row.work for row in panel}) for panel in panels)
    figure = Figure(figsize=(6.2 * len(panels), 1.2 + 0.2 * height), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw_bars(axes, panel, height)
    roles = {row.role for row in shown}
    styles = [style for role, style in STYLES.items() if role in roles]
    figure.legend(
        [Patch(facecolor=color, hatch=hatch, edgecolor="white") for _, color, hatch in styles],
        [name for name, _, _ in styles],
        loc="outside upper center",
        ncols=len(styles),
        frameon=False,
        fontsize=9,
    )
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=130, facecolor="white")


def draw_bars(axes: Axes, rows: Sequence[Row], height: float) -> None:
    """Draw each workload's name in bold with its providers below; bars of both panels are equally thick."""
    names: list[tuple[float, str, str]] = []
    position = 0.0
    for work in dict.fromkeys(row.work for row in rows):
        group = [row for row in rows if row.work == work]
        names.append((position, title(group[0]), "bold"))
        for row in group:
            position += 1.0
            draw_bar(axes, position, row)
            names.append((position, row.provider, "normal"))
        position += 1.6
    axes.axvline(1.0, color="black", linewidth=0.8, zorder=3)
    axes.set_yticks([where for where, _, _ in names], [name for _, name, _ in names], fontsize=8.5)
    for tick, (_, _, weight) in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_fontweight(weight)
    axes.set_ylim(height - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.set_xlabel("times as fast as torch eager")
    axes.grid(axis="x", color="#e3e3e3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def draw_bar(axes: Axes, position: float, row: Row) -> None:
    value, low, high = row.speedup or 0.0, row.speedup_low or 0.0, row.speedup_high or 0.0
    _, color, hatch = STYLES[row.role]
    axes.barh(position, value, 0.84, color=color, hatch=hatch, edgecolor="white")
    axes.hlines(position, low, high, color="black", linewidth=1.0, zorder=4)
    axes.annotate(
        f"{value:.2f}" if value < 10 else f"{value:.0f}",
        (max(value, high), position),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        zorder=5,
    )


def title(row: Row) -> str:
    return f"{row.op}, {row.mode}, {row.shape if row.k is None else f'k={row.k}'}"
