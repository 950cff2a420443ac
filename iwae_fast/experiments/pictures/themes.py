"""The colors of pictures on light and dark pages."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.colors import Colormap, LinearSegmentedColormap


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

    @property
    def shades(self) -> Colormap:
        """The colormap of images, from 0 to the largest value."""
        return LinearSegmentedColormap.from_list(self.name, [self.paper, self.full])


LIGHT = Theme("light", "#ffffff", "#1f2328", "#646c76", "#e3e6ea", "#2563a8", "#d9722b", "#111418")
DARK = Theme("dark", "#15181c", "#e4e7ea", "#9aa3ad", "#31373f", "#7db4ee", "#f0a26a", "#f2f4f6")
