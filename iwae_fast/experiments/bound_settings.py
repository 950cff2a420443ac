"""The bounds that a run can have, and their settings, in a module that does not import torch.

The settings of a run, the options of ``iwae-fast train`` with their completion, and the checks of options that have no
effect are all derived from the table and the class below.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import NamedTuple


class NamedBound(NamedTuple):
    """A bound with a name on the command line."""

    class_name: str
    """Name of its class in :mod:`iwae_fast.bounds`."""
    settings: tuple[str, ...] = ()
    """Names of the fields of :class:`BoundSettings` that its class takes as arguments of the same names."""


BOUNDS = {
    "iwae": NamedBound("IWAE"),
    "elbo": NamedBound("ELBO"),
    "vr-iwae": NamedBound("VRIWAE", ("alpha",)),
    "jvi": NamedBound("JVI", ("order",)),
    "miwae": NamedBound("MIWAE", ("groups",)),
    "piwae": NamedBound("PIWAE", ("groups",)),
    "ciwae": NamedBound("CIWAE", ("beta",)),
    "tvo": NamedBound("TVO"),
    "cubo": NamedBound("CUBO"),
    "sumo": NamedBound("SUMO"),
}
"""Bounds by their names on the command line."""


@dataclass(frozen=True, kw_only=True)
class BoundSettings:
    """Settings of bounds, each with the help text of its option; only the bounds that name a setting use it."""

    alpha: float = field(default=0.5, metadata={"help": "Parameter alpha of vr-iwae."})
    order: int = field(default=1, metadata={"help": "Order of the jackknife, for jvi."})
    groups: int = field(default=5, metadata={"help": "Number of groups, for miwae and piwae; must divide k."})
    beta: float = field(default=0.5, metadata={"help": "Parameter beta of ciwae."})


SETTINGS = tuple(setting.name for setting in fields(BoundSettings))
"""Names of the settings."""


def bounds_with(setting: str) -> tuple[str, ...]:
    """Return the names of the bounds that use a setting."""
    return tuple(name for name, bound in BOUNDS.items() if setting in bound.settings)
