"""Pictures of a run as PNG bytes: training curves, histograms, planes and grids of images, in light or dark colors.

Figures use matplotlib's object interface, which needs neither global state nor a window system.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ..train.metrics import EpochMetrics
from .classes import scatter_classes
from .themes import LIGHT, Theme

DOTS_PER_INCH = 150
GAP = 0.12
"""Gap between the images of a grid, in image widths."""
THUMBNAIL = 0.055
"""Size of an image in a plane, as a fraction of its axes."""
PLANE_PIXELS = 800
"""Side of the square canvas of these images, in pixels."""
BINS = 40
BIN_DECADES, BINS_A_SIDE = 0.25, 40
"""Width of a bin in the histogram of variances, and the most bins on each side of the threshold."""
SMALLEST_VARIANCE = 1e-8
"""Lower limit of the histogram, at which smaller variances are shown."""


FEWEST_TO_FOCUS = 10
"""Number of epochs up to which a curve is always shown whole."""
FLAT = 2.5
"""The least ratio of the range of a whole curve to that of its later part for the later part to be shown alone."""
MINUTE, HOUR = 60.0, 3600.0


def training_curves(
    rows: Sequence[EpochMetrics],
    title: str,
    k: int,
    thing: str = "image",
    theme: Theme = LIGHT,
    changes: Sequence[float] = (),
) -> bytes:
    """Draw the bound over epochs and over time, in nats per ``thing``, and the effective sample size of ``k`` weights.

    The validation bound is drawn with the training bound if the metrics have one. Dotted lines mark the epochs
    ``changes``, after which the objective changed.
    """
    figure = Figure(figsize=(13.5, 3.6), layout="constrained")
    bound, by_time, size = figure.subplots(1, 3)
    _bound(bound, rows, thing, theme, changes)
    _bound(by_time, rows, thing, theme, changes, by_time=True)
    _size(size, rows, k, theme, changes)
    figure.suptitle(title, color=theme.ink, fontsize=12)
    return _png(figure, theme)


def bound_curve(
    rows: Sequence[EpochMetrics],
    thing: str = "image",
    theme: Theme = LIGHT,
    changes: Sequence[float] = (),
    *,
    by_time: bool = False,
) -> bytes:
    """Draw the bound in nats per ``thing`` over epochs or training time, with dotted lines at epochs ``changes``."""
    figure, (axes,) = _panels(1)
    _bound(axes, rows, thing, theme, changes, by_time=by_time)
    return _png(figure, theme)


def size_curve(rows: Sequence[EpochMetrics], k: int, theme: Theme = LIGHT, changes: Sequence[float] = ()) -> bytes:
    """Draw the effective sample size of ``k`` weights over epochs, with dotted lines at the epochs ``changes``."""
    figure, (axes,) = _panels(1)
    _size(axes, rows, k, theme, changes)
    return _png(figure, theme)


def bounds_by_epoch(runs: Mapping[str, Sequence[EpochMetrics]], title: str, theme: Theme = LIGHT) -> bytes:
    """Draw the training bounds of several runs over epochs, each with its label."""
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    axes = figure.subplots()
    series = []
    for label, rows in runs.items():
        line = _Line([row.epoch for row in rows], [row.bound for row in rows], label)
        series.append(line.draw(axes, linewidth=1.6))
    axes.legend(frameon=False, fontsize=9, labelcolor=theme.ink, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    _label(axes, title, "epoch", "training bound, nats", theme)
    _focus(axes, series, "epochs", theme)
    return _png(figure, theme)


@dataclass(frozen=True)
class Points:
    """Points of a diagram with standard errors."""

    x: Sequence[float]
    y: Sequence[float]
    std_error: Sequence[float | None]
    label: str = ""
    joined: bool = True
    """True to join the points by lines."""


def by_setting(
    name: str,
    series: Sequence[Points],
    unit: str,
    theme: Theme = LIGHT,
    *,
    names: Sequence[str] = (),
    logarithmic: bool = False,
) -> bytes:
    """Draw results over the values of a setting, or over the ``names`` of its values at the positions 0, 1, ..."""
    figure, (axes,) = _panels(1)
    for points in series:
        axes.errorbar(
            points.x,
            points.y,
            [math.nan if error is None else error for error in points.std_error],
            fmt="o-" if points.joined else "o",
            markersize=4,
            linewidth=1.4,
            color=theme.first if len(series) == 1 else None,
            label=points.label,
        )
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=theme.ink)
    if names:
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
    elif logarithmic:
        axes.set_xscale("log")
    elif all(float(x).is_integer() for points in series for x in points.x):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label(axes, "", name, unit, theme)
    return _png(figure, theme)


def histogram(
    values: NDArray[np.floating], title: str, unit: str, line: float | None = None, theme: Theme = LIGHT
) -> bytes:
    """Draw a histogram of values, one per observation, with a dashed line at ``line``.

    Values that are not finite are left out, and their number is given below the axis.
    """
    figure, axes = _panels(1)
    finite = np.isfinite(values)
    axes[0].hist(values[finite], bins=BINS, color=theme.first)
    _threshold(axes[0], line, theme)
    left_out = int((~finite).sum())
    _label(axes[0], title, f"{unit}; {left_out} not finite" if left_out else unit, "observations", theme)
    axes[0].yaxis.set_major_locator(MaxNLocator(integer=True))
    return _png(figure, theme)


@dataclass(frozen=True)
class _Line:
    """One line of a diagram."""

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    color: str | None = None

    def draw(self, axes: Axes, linewidth: float = 1.8) -> _Line:
        """Draw the line, with markers if it has fewer than 3 points, and return it with the color that was used."""
        marker = "o" if len(self.x) < 3 else None
        (drawn,) = axes.plot(
            self.x,
            self.y,
            color=self.color,
            linewidth=linewidth,
            marker=marker,
            label=self.label,
            clip_on=marker is None,
        )
        return replace(self, color=to_hex(drawn.get_color()))


def _bound(
    axes: Axes,
    rows: Sequence[EpochMetrics],
    thing: str,
    theme: Theme,
    changes: Sequence[float] = (),
    *,
    by_time: bool = False,
) -> None:
    """Fill one panel with the bound."""
    unit, seconds = _unit_of_time(rows[-1].seconds) if rows else ("seconds", 1.0)
    position = [row.seconds / seconds if by_time else float(row.epoch) for row in rows]
    series = [_Line(position, [row.bound for row in rows], "training", theme.first)]
    validated = [(x, row.validation) for x, row in zip(position, rows, strict=True) if row.validation is not None]
    if validated:
        x, y = zip(*validated, strict=True)
        series.append(_Line(x, y, "validation", theme.second))
    for line in series:
        line.draw(axes)
    if validated:
        axes.legend(frameon=False, fontsize=9, labelcolor=theme.ink, loc="upper left")
    if by_time:
        ends = [row.epoch for row in rows]
        _mark(axes, [float(np.interp(change, ends, position)) for change in changes], theme)
    else:
        _count_epochs(axes, rows)
        _mark(axes, [change + 0.5 for change in changes], theme)  # rows are at the ends of epochs
    _label(
        axes, "Bound by training time" if by_time else "Bound", unit if by_time else "epoch", f"nats per {thing}", theme
    )
    _focus(axes, series, "epochs", theme)


def _mark(axes: Axes, positions: Sequence[float], theme: Theme) -> None:
    """Draw a dotted line where the objective changed."""
    for position in positions:
        axes.axvline(position, color=theme.ink, linewidth=1.2, linestyle=":")


def _size(axes: Axes, rows: Sequence[EpochMetrics], k: int, theme: Theme, changes: Sequence[float] = ()) -> None:
    """Fill one panel with the effective sample size."""
    sizes = [row.ess for row in rows]
    _Line([row.epoch for row in rows], sizes, color=theme.second).draw(axes)
    axes.set_ylim(0.0, 1.08 * max(sizes, default=1.0))
    _count_epochs(axes, rows)
    _mark(axes, [change + 0.5 for change in changes], theme)
    _label(axes, f"Effective sample size (of k = {k})", "epoch", "samples", theme)


def _count_epochs(axes: Axes, rows: Sequence[EpochMetrics]) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if len(rows) == 1:
        axes.set_xlim(rows[0].epoch - 0.5, rows[0].epoch + 0.5)


def _focus(axes: Axes, series: Sequence[_Line], things: str, theme: Theme) -> None:
    """Limit the axis to the later part of curves if the beginning would flatten it, and show the whole in an inset.

    This is needed because the bound rises steeply in the first epochs.
    """
    values = np.concatenate([np.asarray(line.y, dtype=float) for line in series]) if series else np.empty(0)
    late = [np.asarray(line.y, dtype=float)[len(line.y) // FEWEST_TO_FOCUS + 1 :] for line in series]
    late_values = np.concatenate(late) if late else np.empty(0)
    if not len(late_values) or max(len(line.y) for line in series) <= FEWEST_TO_FOCUS:
        return
    low, high = float(late_values.min()), float(values.max())
    if high - values.min() <= FLAT * (high - low):
        return
    axes.set_ylim(low - 0.5 * (high - low), high + 0.06 * (high - low))  # the inset is below the curves
    hidden = len({x for line in series for x, y in zip(line.x, line.y, strict=True) if y < axes.get_ylim()[0]})
    inset = axes.inset_axes((0.5, 0.1, 0.47, 0.34))
    for line in series:
        inset.plot(line.x, line.y, color=line.color, linewidth=1.1)
    inset.set_title(f"whole curve; {hidden} {things} are below", fontsize=7.5, color=theme.quiet, loc="right", pad=2.5)
    _style(inset, theme)
    inset.tick_params(labelsize=7)


def _unit_of_time(longest: float) -> tuple[str, float]:
    """Return the unit for times up to ``longest`` seconds, and its length in seconds."""
    if longest < 3 * MINUTE:
        return "seconds", 1.0
    return ("minutes", MINUTE) if longest < 3 * HOUR else ("hours", HOUR)


def plane(
    points: NDArray[np.floating],
    labels: tuple[str, str],
    images: NDArray[np.floating] | None = None,
    theme: Theme = LIGHT,
    classes: NDArray[Any] | None = None,
) -> bytes:
    """Draw points (M, 2) of a plane as dots, and those of their images (M, height, width[, 3]) that do not overlap.

    With ``classes`` (M,), numbers or strings, dots have the color of their class. Numbers of many values are shown on a
    scale, and of strings the most frequent ones have colors.
    """
    figure = Figure(figsize=(7.0, 6.4))
    axes = figure.add_axes((0.1, 0.08, 0.88, 0.9))
    if classes is None:
        axes.scatter(points[:, 0], points[:, 1], s=9, color=theme.first, alpha=0.6, linewidths=0)
    else:
        scatter_classes(axes, points, classes, theme)
    span = np.maximum(np.ptp(points, axis=0), 1e-12)
    low, high = points.min(0) - 0.05 * span, points.max(0) + 0.05 * span
    if images is not None:
        canvas = _thumbnails((points - low) / (high - low), images, theme)
        axes.imshow(canvas, extent=(low[0], high[0], low[1], high[1]), aspect="auto", zorder=2)
    axes.set_xlim(float(low[0]), float(high[0]))
    axes.set_ylim(float(low[1]), float(high[1]))
    _label(axes, "", *labels, theme)
    return _png(figure, theme)


def _thumbnails(where: NDArray[np.floating], images: NDArray[np.floating], theme: Theme) -> NDArray[np.floating]:
    """Return a square canvas (side, side, RGBA) of images, transparent elsewhere.

    Each image is centered at its position ``where`` in the unit square, whose second axis points up. Images that would
    cover earlier ones are left out.
    """
    stride = math.ceil(max(images.shape[1:3]) / (2 * PLANE_PIXELS * THUMBNAIL))  # larger images are subsampled
    images = images[:, ::stride, ::stride]
    height, width = images.shape[1:3]
    scale = max(1, round(PLANE_PIXELS * THUMBNAIL / max(height, width)))
    high, wide = height * scale, width * scale
    free = np.ones((PLANE_PIXELS, PLANE_PIXELS), dtype=bool)
    canvas = np.zeros((PLANE_PIXELS, PLANE_PIXELS, 4))
    for (across, up), image in zip(where, images, strict=True):
        top = min(max(round((1.0 - up) * PLANE_PIXELS - high / 2), 0), PLANE_PIXELS - high)
        left = min(max(round(across * PLANE_PIXELS - wide / 2), 0), PLANE_PIXELS - wide)
        place = slice(top, top + high), slice(left, left + wide)
        if free[place].all():
            free[place] = False
            canvas[place] = theme.painted(np.clip(image, 0.0, 1.0).repeat(scale, axis=0).repeat(scale, axis=1))
    return canvas


def activity_histogram(layers: Sequence[NDArray[np.floating]], threshold: float, theme: Theme = LIGHT) -> bytes:
    """Draw variances of posterior means on a logarithmic axis, one panel per layer, with a line at the threshold."""
    figure, panels = _panels(len(layers))
    exponents = [np.log10(np.maximum(variances, SMALLEST_VARIANCE)) for variances in layers]
    low, high = min(map(np.min, exponents)), max(map(np.max, exponents))
    # The threshold is an edge of bins, so that no bin mixes active and inactive units.
    bins = math.log10(threshold) + np.arange(-BINS_A_SIDE, BINS_A_SIDE + 1) * BIN_DECADES
    bins = bins[(bins >= low - 1.01 * BIN_DECADES) & (bins <= high + 1.01 * BIN_DECADES)]
    for number, (axes, values) in enumerate(zip(panels, exponents, strict=True), 1):
        axes.hist(values, bins=bins.tolist(), color=theme.first)
        _threshold(axes, math.log10(threshold), theme)
        _label(axes, f"Layer {number}", "log10 of the variance of the posterior mean", "units", theme)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return _png(figure, theme)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    if count == 1:  # fixed axes: computing a layout takes as long as drawing
        figure = Figure(figsize=(5.6, 3.0))
        return figure, [figure.add_axes((0.14, 0.16, 0.84, 0.74))]
    figure = Figure(figsize=(max(5.6, 4.5 * count), 3.0), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _threshold(axes: Axes, position: float | None, theme: Theme) -> None:
    if position is not None:
        axes.axvline(position, color=theme.second, linewidth=1.6, linestyle="--")


def image_grid(
    images: NDArray[np.floating], labels: Sequence[str] = (), columns: Sequence[str] = (), theme: Theme = LIGHT
) -> bytes:
    """Draw images (rows, columns, height, width[, 3]), with labels of rows and columns if given.

    The color scale is [0, 1], or from 0 to the largest value if that is above 1, as for images of counts. Missing
    pixels, NaN, have the color of the paper.
    """
    rows, _, _, width = images.shape[:4]
    channels = images.shape[4:]
    largest = max(1.0, float(np.nanmax(images, initial=0.0)))
    # An integer scale keeps pixels sharp.
    scale = max(1, round(72 / width))
    tiles = images.repeat(scale, axis=2).repeat(scale, axis=3)
    gap = max(3, round(GAP * width * scale))
    around = ((0, 0), (0, 0), (gap, gap), (gap, gap), *((0, 0) for _ in channels))
    # Gaps between color images are transparent, those between gray ones have the value 0 of the paper.
    tiles = np.pad(tiles, around, constant_values=math.nan if channels else 0.0)
    across = tiles.shape[3]
    canvas = tiles.swapaxes(1, 2).reshape(rows * tiles.shape[2], images.shape[1] * across, *channels)
    left, above = (150 if labels else 0), (26 if columns else 0)
    wide, high = canvas.shape[1] + left, canvas.shape[0] + above
    figure = Figure(figsize=(wide / 100, high / 100))
    axes = figure.add_axes((left / wide, 0.0, canvas.shape[1] / wide, canvas.shape[0] / high))
    if channels:
        canvas = theme.painted(np.clip(canvas / largest, 0.0, 1.0))
    axes.imshow(canvas, cmap=theme.shades, vmin=0.0, vmax=largest, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for row, label in enumerate(labels):
        position = (canvas.shape[0] / high) * (1.0 - (row + 0.5) / rows)
        figure.text(0.94 * left / wide, position, label, ha="right", va="center", color=theme.ink, fontsize=11)
    for column, label in enumerate(columns):
        position = (left + (column + 0.5) * across) / wide
        figure.text(position, 1.0 - 0.5 * above / high, label, ha="center", va="center", color=theme.quiet, fontsize=9)
    return _png(figure, theme, 100)


def _label(axes: Axes, title: str, below: str, beside: str, theme: Theme) -> None:
    axes.set_title(title, color=theme.ink, fontsize=10.5, loc="left")
    axes.set_xlabel(below, color=theme.ink)
    axes.set_ylabel(beside, color=theme.ink)
    _style(axes, theme)


def _style(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.paper)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(theme.quiet)
    axes.tick_params(colors=theme.ink)


def _png(figure: Figure, theme: Theme, dots_per_inch: int = DOTS_PER_INCH) -> bytes:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots_per_inch, facecolor=theme.paper)
    return buffer.getvalue()
