"""Pictures of a run as PNG bytes: training curves and grids of images.

Figures are made through matplotlib's object interface: there is no global state, and no window system is needed.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .metrics import EpochMetrics

DOTS_PER_INCH = 150
BLUE, ORANGE, INK, GRID = "#2563a8", "#d9722b", "#333333", "#e3e3e3"
GAP = 0.12
"""Between images of a grid, in image widths."""


def training_curves(rows: Sequence[EpochMetrics], title: str, k: int) -> bytes:
    """The training bound and the effective sample size of ``k`` weights over the epochs."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    bound, size = figure.subplots(1, 2)
    epochs = [row.epoch for row in rows]
    marker = "o" if len(rows) < 3 else None
    bound.plot(epochs, [row.bound for row in rows], color=BLUE, linewidth=1.8, marker=marker)
    if len(rows) > 10:
        # The first epochs climb from far below and would flatten all the rest.
        values = np.array([row.bound for row in rows])
        low, high = np.quantile(values, 0.03), values.max()
        bound.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    _label(bound, "Training bound", "nats per image")
    size.plot(epochs, [row.ess for row in rows], color=ORANGE, linewidth=1.8, marker=marker)
    size.set_ylim(bottom=0.0)
    _label(size, f"Effective sample size (of k = {k})", "samples")
    figure.suptitle(title, color=INK, fontsize=12)
    return _png(figure)


def image_grid(images: NDArray[np.floating], labels: Sequence[str] = ()) -> bytes:
    """Images (rows, columns, height, width) with values in [0, 1], ink dark on white; a label for each row if given."""
    rows, columns, _, width = images.shape
    # Pixels drawn at a whole multiple of their size stay sharp.
    scale = max(1, round(72 / width))
    tiles = images.repeat(scale, axis=2).repeat(scale, axis=3)
    gap = max(3, round(GAP * width * scale))
    tiles = np.pad(tiles, ((0, 0), (0, 0), (gap, gap), (gap, gap)))
    canvas = tiles.transpose(0, 2, 1, 3).reshape(rows * tiles.shape[2], columns * tiles.shape[3])
    margin = 150 if labels else 0
    inches = (canvas.shape[1] + margin) / 100, canvas.shape[0] / 100
    figure = Figure(figsize=inches)
    axes = figure.add_axes(
        (margin / (canvas.shape[1] + margin), 0.0, canvas.shape[1] / (canvas.shape[1] + margin), 1.0)
    )
    axes.imshow(canvas, cmap="gray_r", vmin=0.0, vmax=1.0, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for row, label in enumerate(labels):
        position = 1.0 - (row + 0.5) / rows
        figure.text(margin / 100 * 0.94 / inches[0], position, label, ha="right", va="center", color=INK, fontsize=11)
    return _png(figure, 100)


def _label(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, color=INK, fontsize=10.5, loc="left")
    axes.set_xlabel("epoch", color=INK)
    axes.set_ylabel(unit, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)


def _png(figure: Figure, dots_per_inch: int = DOTS_PER_INCH) -> bytes:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots_per_inch, facecolor="white")
    return buffer.getvalue()
