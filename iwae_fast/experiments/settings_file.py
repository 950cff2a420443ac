"""Settings of a run in a file: TOML as a person writes it, or the config.json of another run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, get_args

from .. import checks
from ..files import read_json
from .bound_settings import BOUNDS, SETTINGS
from .protocols import PROTOCOLS, passes
from .setting_text import SIZES, TYPES, parse_setting

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OPTIONS = ("log", "output")
"""Options of ``iwae-fast train`` that a file may have beside settings."""


class FileSettings(NamedTuple):
    """The content of a settings file."""

    settings: dict[str, Any]
    """Settings by their names in :class:`.config.TrainConfig`."""
    options: dict[str, Any]
    """Values of OPTIONS: ``log`` is a list of names."""
    is_complete: bool
    """True if the file lists all settings of a run, also those without an effect on it."""

    def beside(self, given: Mapping[str, Any]) -> FileSettings:
        """Return the content without what has no effect beside the settings of the command line, ``given``.

        Settings of a bound and the number of stages are errors where they do not have an effect, but not if another
        bound or protocol has been chosen over that of the file, nor in the settings of a run.
        """
        merged = {"bound": "iwae", "protocol": "constant", **self.settings, **given}
        kept = dict(self.settings)
        known = BOUNDS.get(merged["bound"])
        if known is not None and (self.is_complete or "bound" in given):
            kept = {name: value for name, value in kept.items() if name not in SETTINGS or name in known.settings}
        protocol = PROTOCOLS.get(merged["protocol"])
        if protocol is not None and (self.is_complete or "protocol" in given) and len(protocol.factors) == 1:
            kept.pop("stages", None)
        if merged.get("lr_schedule", "constant") == "constant" and (self.is_complete or "lr_schedule" in given):
            kept.pop("lr_final", None)
        return self._replace(settings=kept)

    def over(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of the file and of the command line, ``given``, which take precedence."""
        merged = {**self.settings, **given}
        stages = merged.get("stages")
        # Stages set the number of epochs unless that is given too, at the same place.
        if stages is not None and "epochs" not in (given if "stages" in given else merged):
            merged["epochs"] = passes(checks.positive("stages", stages))
        return merged


def read_settings(path: Path) -> FileSettings:
    """Read settings from a .toml file, or from the .json file of a run.

    Names are those of options of ``iwae-fast train``, with - or _. Raises ValueError that names the file, and for an
    unknown name the nearest one, or OSError if the file cannot be read.
    """
    is_complete = path.suffix.lower() == ".json"
    content = read_json(path) if is_complete else _read_toml(path)
    settings: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for written, value in content.items():
        try:
            name = written.replace("-", "_")
            checks.one_of("setting", name, (*TYPES, "data", *OPTIONS))
            target = options if name in OPTIONS else settings
            name = "dataset" if name == "data" else name
            if name in target:
                raise ValueError(f"{written} is given twice, by another name of the same setting")
            target[name] = _option(name, value) if name in OPTIONS else typed(name, value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error
    return FileSettings(settings, options, is_complete)


def toml(settings: Mapping[str, Any]) -> str:
    """Return settings and options as TOML that :func:`read_settings` reads; None, which TOML lacks, is left out."""
    return "".join(f"{name} = {_toml_value(value)}\n" for name, value in settings.items() if value is not None)


def typed(name: str, value: Any) -> Any:
    """Return a value of a file as that of a setting; raises ValueError if it has another type."""
    if isinstance(value, str):
        return parse_setting(name, value)
    if name in SIZES:
        return _sizes(name, [value] if name == "hidden" and isinstance(value, int) else value)
    kinds = get_args(TYPES[name]) or (TYPES[name],)
    if value is None and NoneType in kinds:
        return None
    kind = kinds[0]
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        expected = {bool: "true or false", int: "an int", float: "a float", str: "a string"}[kind]
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return float(value) if kind is float else value


def _sizes(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_sizes(name, size) for size in value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be sizes of layers, such as [{SIZES[name]}], got {value!r}")
    return value


def _option(name: str, value: Any) -> Any:
    several = name == "log" and isinstance(value, list)
    if not all(isinstance(each, str) for each in (value if several else [value])):
        raise ValueError(f"{name} must be a string{' or a list of strings' if name == 'log' else ''}, got {value!r}")
    return [value] if name == "log" and not several else value


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error


def _toml_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
