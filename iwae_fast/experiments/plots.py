"""Pictures of a run as PNG bytes: training curves, histograms and grids of images.

Figures are made through matplotlib's object interface: there is no global state, and no window system is needed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

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
BINS = 40
BIN_DECADES, BINS_A_SIDE = 0.25, 40
"""Of the histogram of variances: the width of a bin, and how many there can be on each side of the threshold."""
SMALLEST_VARIANCE = 1e-8
"""What is below is shown as this."""


def training_curves(rows: Sequence[EpochMetrics], title: str, k: int, changes: Sequence[float] = ()) -> bytes:
    """The training bound, beside it the bound of a validation set where the metrics have one, and the effective sample
    size of ``k`` weights over the epochs; a dotted line at each epoch of ``changes``, after which the objective is
    another one."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    bound, size = figure.subplots(1, 2)
    epochs = [row.epoch for row in rows]
    marker = "o" if len(rows) < 3 else None
    bound.plot(epochs, [row.bound for row in rows], color=BLUE, linewidth=1.8, marker=marker, label="training")
    validated = [(row.epoch, value) for row in rows if (value := row.validation) is not None]
    if validated:
        bound.plot(*zip(*validated, strict=True), color=ORANGE, linewidth=1.8, marker=marker, label="validation")
        bound.legend(frameon=False, fontsize=9, labelcolor=INK)
    if len(rows) > 10:
        # The first epochs climb from far below and would flatten all the rest.
        values = np.array([row.bound for row in rows])
        low, high = np.quantile(values, 0.03), values.max()
        bound.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    _label(bound, "Bound", "epoch", "nats per image")
    size.plot(epochs, [row.ess for row in rows], color=ORANGE, linewidth=1.8, marker=marker)
    size.set_ylim(bottom=0.0)
    _label(size, f"Effective sample size (of k = {k})", "epoch", "samples")
    for axes in (bound, size):
        for epoch in changes:
            axes.axvline(epoch + 0.5, color=INK, linewidth=1.2, linestyle=":")  # a row is at its epoch's end
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    figure.suptitle(title, color=INK, fontsize=12)
    return _png(figure)


def bounds_by_epoch(runs: Mapping[str, Sequence[EpochMetrics]], title: str) -> bytes:
    """The training bounds of several runs over the epochs, each with its label."""
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    axes = figure.subplots()
    for label, rows in runs.items():
        marker = "o" if len(rows) < 3 else None
        axes.plot([row.epoch for row in rows], [row.bound for row in rows], linewidth=1.6, marker=marker, label=label)
    # The first epochs climb from far below and would flatten all the rest.
    shown = [row.bound for rows in runs.values() for row in rows[len(rows) // 6 :]]
    margin = 0.05 * (max(shown) - min(shown)) + 0.1
    axes.set_ylim(min(shown) - margin, max(shown) + margin)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    _label(axes, title, "epoch", "training bound, nats")
    return _png(figure)


def histogram(values: NDArray[np.floating], title: str, unit: str, line: float | None = None) -> bytes:
    """How many of the values, each of an observation, are where; a dashed line at ``line``. What is not finite is left
    out."""
    figure, axes = _panels(1)
    axes[0].hist(values[np.isfinite(values)], bins=BINS, color=BLUE)
    _threshold(axes[0], line)
    _label(axes[0], title, unit, "observations")
    axes[0].yaxis.set_major_locator(MaxNLocator(integer=True))
    return _png(figure)


def activity_histogram(layers: Sequence[NDArray[np.floating]], threshold: float) -> bytes:
    """Variances of posterior means on a logarithmic axis, a panel for each layer, a dashed line at the threshold."""
    figure, panels = _panels(len(layers))
    exponents = [np.log10(np.maximum(variances, SMALLEST_VARIANCE)) for variances in layers]
    low, high = min(map(np.min, exponents)), max(map(np.max, exponents))
    # Units at the threshold's two sides are in different bins.
    bins = math.log10(threshold) + np.arange(-BINS_A_SIDE, BINS_A_SIDE + 1) * BIN_DECADES
    bins = bins[(bins >= low - 1.01 * BIN_DECADES) & (bins <= high + 1.01 * BIN_DECADES)]
    for number, (axes, values) in enumerate(zip(panels, exponents, strict=True), 1):
        axes.hist(values, bins=bins.tolist(), color=BLUE)
        _threshold(axes, math.log10(threshold))
        _label(axes, f"Layer {number}", "log10 of the variance of the posterior mean", "units")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return _png(figure)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(max(5.6, 4.5 * count), 3.0), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _threshold(axes: Axes, position: float | None) -> None:
    if position is not None:
        axes.axvline(position, color=ORANGE, linewidth=1.6, linestyle="--")


def image_grid(images: NDArray[np.floating], labels: Sequence[str] = ()) -> bytes:
    """Images (rows, columns, height, width), ink dark on white; a label for each row if given.

    Values are in [0, 1], or from 0 to the largest where that is more, as in images of counts.
    """
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
    axes.imshow(
        canvas, cmap="gray_r", vmin=0.0, vmax=max(1.0, float(images.max())), interpolation="nearest", aspect="auto"
    )
    axes.set_axis_off()
    for row, label in enumerate(labels):
        position = 1.0 - (row + 0.5) / rows
        figure.text(margin / 100 * 0.94 / inches[0], position, label, ha="right", va="center", color=INK, fontsize=11)
    return _png(figure, 100)


def _label(axes: Axes, title: str, below: str, beside: str) -> None:
    axes.set_title(title, color=INK, fontsize=10.5, loc="left")
    axes.set_xlabel(below, color=INK)
    axes.set_ylabel(beside, color=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)


def _png(figure: Figure, dots_per_inch: int = DOTS_PER_INCH) -> bytes:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots_per_inch, facecolor="white")
    return buffer.getvalue()
