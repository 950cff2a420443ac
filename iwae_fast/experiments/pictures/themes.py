"""The colors of pictures on light and dark pages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap
from numpy.typing import NDArray


@dataclass(frozen=True)
class Theme:
    """Colors for matplotlib, which match the style sheet of the pages."""

    name: str
    paper: str
    ink: str
    quiet: str
    grid: str
    first: str
    """The main color, also that of the first of several lines."""
    second: str
    """The color of comparisons and thresholds."""
    full: str
    """The color of an image's largest value; zeros have the color of the paper."""

    classes: tuple[str, ...]
    """The colors of classes: those of Okabe & Ito (2008), which people with color blindness can tell apart, and two."""

    @property
    def shades(self) -> Colormap:
        """The colormap of images, from 0 to the largest value."""
        return LinearSegmentedColormap.from_list(self.name, [self.paper, self.full])

    def painted(self, image: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the colors (height, width, RGBA) of an image in [0, 1], gray (height, width) or (height, width, RGB).

        Missing pixels, NaN, are transparent.
        """
        if image.ndim == 2:
            return np.asarray(self.shades(image))
        is_seen = ~np.isnan(image).any(-1, keepdims=True)
        return np.concatenate((np.nan_to_num(image), is_seen.astype(image.dtype)), axis=-1)


CLASSES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b3a800", "#8c6bb1", "#8b5a2b", "#7f8790")

LIGHT = Theme("light", "#ffffff", "#1f2328", "#646c76", "#e3e6ea", "#2563a8", "#d9722b", "#111418", CLASSES)
DARK = Theme("dark", "#15181c", "#e4e7ea", "#9aa3ad", "#31373f", "#7db4ee", "#f0a26a", "#f2f4f6", CLASSES)
