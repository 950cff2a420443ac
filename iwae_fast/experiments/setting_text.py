"""Settings of runs as text: values of the command line, and options of ``iwae-fast train``."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any, get_args, get_type_hints

from .. import checks
from ..data import is_file
from .config import TrainConfig
from .train.run_data import stored_name, stored_path

TYPES = get_type_hints(TrainConfig)
"""Types of the settings by name."""

SIZES = {"hidden": "200,200", "latent": "100,50"}
"""Settings that are sizes of layers, with an example."""
TRUTH = {"true": True, "false": False}


def setting_name(name: str) -> str:
    """Return the name of a setting, which may be written as its option; raises ValueError if it is unknown."""
    return checks.one_of("setting", name.strip().lstrip("-").replace("-", "_"), TYPES)


def parse_setting(name: str, text: str) -> Any:
    """Return the value of a setting from its text, ``none`` for None; raises ValueError if it cannot be parsed."""
    text = text.strip()
    if name == "hidden":
        return tuple(sizes(name, layer) for layer in text.split("/"))
    if name == "latent":
        return sizes(name, text)
    if name == "dataset":
        return stored_name(text)
    if name == "test" and text.lower() != "none":
        return stored_path(text)
    kinds = get_args(TYPES[name]) or (TYPES[name],)
    if NoneType in kinds and text.lower() == "none":
        return None
    kind = kinds[0]
    try:
        return TRUTH[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        if str in kinds:  # a number or a name
            return text
        expected = "true or false" if kind is bool else f"{'an' if kind is int else 'a'} {kind.__name__}"
        raise ValueError(f"{name} must be {expected}, got {text!r}") from None


def sizes(name: str, text: str) -> tuple[int, ...]:
    """Return comma-separated sizes of layers; raises ValueError if they cannot be parsed."""
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise ValueError(f"{name} must be comma-separated sizes such as {SIZES[name]}, got {text!r}") from None


def setting_text(value: Any) -> str:
    """Return the text of a value, from which :func:`parse_setting` returns it."""
    if isinstance(value, tuple):
        nested = any(isinstance(part, tuple) for part in value)
        return ("/" if nested else ",").join(map(setting_text, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as options of ``iwae-fast train``; None is the default of those that can be None."""
    found = []
    for name, value in settings.items():
        option = name.replace("_", "-")
        if name == "dataset" and is_file(str(value)):
            option = "data"
        if isinstance(value, bool):
            found.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            found += [f"--{option}", setting_text(value)]
    return found
