"""From a template and what it shows to a page.

A page is a template in ``templates/`` that extends ``base.html`` and fills its blocks ``title``, ``header`` and
``content``; ``macros.html`` has what several pages draw with. Values are escaped, and a name that is missing is an
error. The filters of this module write numbers with a fixed number of digits, and a dash for None.
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
    """What it shows, in a few words; also for those who cannot see it."""
    caption: str = ""
    dark: bytes | None = None
    """The picture for a dark page; None where the other one serves there too."""

    @classmethod
    def drawn(cls, draw: Callable[[Theme], bytes], title: str, caption: str = "") -> Figure:
        """Make a figure from a function that draws the picture in the colors of a theme."""
        return cls(draw(LIGHT), title, caption, draw(DARK))

    @property
    def uri(self) -> str:
        """The picture itself, as a data URI."""
        return _uri(self.png)

    @property
    def dark_uri(self) -> str | None:
        """The picture for a dark page, as a data URI."""
        return None if self.dark is None else _uri(self.dark)


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def render(template: str, **context: Any) -> str:
    """The page of a template by its name, such as "run.html", with the values that it asks for.

    Raises jinja2.TemplateNotFound for an unknown name and jinja2.UndefinedError where a value is missing.
    """
    return _environment().get_template(template).render(version=__version__, **context)


def fixed(value: float | None, digits: int = 2) -> str:
    """A number with so many decimals."""
    return NOTHING if value is None else f"{value:,.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 2) -> str:
    """A difference, which shows its sign."""
    return NOTHING if value is None else f"{value:+,.{digits}f}".replace("-", MINUS)


def percent(value: float | None) -> str:
    """A share."""
    return NOTHING if value is None else f"{100.0 * value:.1f} %"


def duration(seconds: float | None) -> str:
    """A time in the units that suit its length."""
    if seconds is None:
        return NOTHING
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    if seconds < HOUR:
        return f"{int(seconds // MINUTE)} min {int(seconds % MINUTE)} s"
    return f"{int(seconds // HOUR)} h {int(seconds % HOUR // MINUTE)} min"


def plain(value: Any) -> str:
    """A setting as one would write it."""
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
