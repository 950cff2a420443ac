"""Rendering of pages from templates.

A page is a template in ``templates/`` that extends ``base.html`` and fills its blocks ``title``, ``header`` and
``content``; ``macros.html`` has the macros shared by several pages. Values are escaped, and a missing name is an error.
The filters of this module format numbers with a fixed number of digits, and None as a dash.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2

from ..._version import __version__
from ..pictures.themes import DARK, LIGHT, Theme

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
MINUTE, HOUR = 60, 3600


@dataclass(frozen=True)
class Figure:
    """A picture of a page."""

    png: bytes
    title: str
    """Short description, which is also the alternative text."""
    caption: str = ""
    dark: bytes | None = None
    """The picture for a dark page; None to use ``png`` there too."""

    @classmethod
    def drawn(cls, draw: Callable[[Theme], bytes], title: str, caption: str = "") -> Figure:
        """Create a figure from a function that draws the picture in the colors of a theme."""
        return cls(draw(LIGHT), title, caption, draw(DARK))

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return _uri(self.png)

    @property
    def dark_uri(self) -> str | None:
        """The picture for a dark page, as a data URI."""
        return None if self.dark is None else _uri(self.dark)


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def render(template: str, **context: Any) -> str:
    """Render a template by its name, such as "run.html", with the values that it uses.

    Raises jinja2.TemplateNotFound for an unknown name and jinja2.UndefinedError if a value is missing.
    """
    return _environment().get_template(template).render(version=__version__, **context)


def fixed(value: float | None, digits: int = 2) -> str:
    """Format a number with ``digits`` decimals."""
    return NOTHING if value is None else f"{value:,.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 2) -> str:
    """Format a difference with its sign and ``digits`` decimals."""
    return NOTHING if value is None else f"{value:+,.{digits}f}".replace("-", MINUS)


def percent(value: float | None) -> str:
    """Format a fraction as a percentage."""
    return NOTHING if value is None else f"{100.0 * value:.1f} %"


def duration(seconds: float | None) -> str:
    """Format a duration in seconds, minutes or hours."""
    if seconds is None:
        return NOTHING
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    if seconds < HOUR:
        return f"{int(seconds // MINUTE)} min {int(seconds % MINUTE)} s"
    return f"{int(seconds // HOUR)} h {int(seconds % HOUR // MINUTE)} min"


def plain(value: Any) -> str:
    """Format a setting, a sequence with commas."""
    if value is None:
        return NOTHING
    return ", ".join(map(plain, value)) if isinstance(value, list | tuple) else str(value)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {write.__name__: write for write in (fixed, signed, percent, duration, plain)}
    return environment
