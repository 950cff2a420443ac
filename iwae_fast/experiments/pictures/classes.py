"""Points in the colors of their classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from .themes import Theme


def scatter_classes(axes: Axes, points: NDArray[np.floating], classes: NDArray[Any], theme: Theme) -> None:
    """Draw points (M, 2) in the colors of their classes (M,), with a legend or a scale.

    Numbers of more values than there are colors have a scale. Of other classes the most frequent ones have colors,
    and the rest is gray.
    """
    names, counts = np.unique(classes, return_counts=True)
    if classes.dtype.kind == "f" or (classes.dtype.kind in "iu" and len(names) > len(theme.classes)):
        numbers = classes.astype(float)
        drawn = axes.scatter(points[:, 0], points[:, 1], s=9, c=numbers, cmap="viridis", alpha=0.8, linewidths=0)
        bar = axes.figure.colorbar(drawn, ax=axes, shrink=0.6)
        bar.ax.tick_params(colors=theme.ink)
        return
    largest = np.sort(np.argsort(-counts, kind="stable")[: len(theme.classes)])
    rest = ~np.isin(classes, names[largest])
    if rest.any():
        axes.scatter(points[rest, 0], points[rest, 1], s=9, color=theme.quiet, label="others", alpha=0.5, linewidths=0)
    for color, name in zip(theme.classes, names[largest], strict=False):
        own = classes == name
        axes.scatter(points[own, 0], points[own, 1], s=11, color=color, label=str(name), alpha=0.8, linewidths=0)
    legend = axes.legend(frameon=True, facecolor=theme.paper, edgecolor=theme.grid, fontsize=9, markerscale=2)
    for text in legend.get_texts():
        text.set_color(theme.ink)
    legend.set_zorder(3)  # above the images
