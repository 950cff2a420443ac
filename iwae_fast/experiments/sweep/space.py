"""The settings of a sweep: those that all runs share, grids of values, and ranges to sample from."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from ...files import read_json, write_json
from ..config import usable_device
from ..many.training import FREE, config_of
from ..setting_text import TYPES, parse_setting, setting_name, setting_text
from ..train import training
from ..train.fixed_pixels import validation_data
from ..unused import check_training

SHARED = ("validation", "eval_k", "eval_observations")
"""Settings of the NLL by which trials are compared, which must be the same for all of them."""


DIGITS = 4
"""Significant digits of sampled numbers."""


@dataclass(frozen=True)
class Range:
    """A range of numbers to sample from."""

    low: float
    high: float
    log: bool
    whole: bool
    """True for integers."""

    def corners(self) -> tuple[Any, ...]:
        """Return the values that are checked before the first run."""
        return (self.low, self.high)

    def value(self, sampled: Any) -> Any:
        """Return the value of the setting for what the sampler returned: a number that people can read and type."""
        if self.whole:
            return sampled
        return min(max(float(f"{sampled:.{DIGITS}g}"), self.low), self.high)

    def __str__(self) -> str:
        return f"{self.low}..{self.high}" + (":log" if self.log else "")


@dataclass(frozen=True)
class Choice:
    """Values to sample from, by their texts."""

    values: Mapping[str, Any]

    def corners(self) -> tuple[Any, ...]:
        """Return the values that are checked before the first run."""
        return tuple(self.values.values())

    def value(self, sampled: Any) -> Any:
        """Return the value of the setting for what the sampler returned."""
        return self.values[sampled]

    def __str__(self) -> str:
        return ";".join(self.values)


@dataclass(frozen=True)
class Space:
    """The settings of a sweep by name."""

    shared: Mapping[str, Any] = field(default_factory=dict)
    """Settings of all runs."""
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Values of which every combination is tried."""
    sampled: Mapping[str, Range | Choice] = field(default_factory=dict)
    """Settings that are sampled for each trial."""

    @classmethod
    def parse(cls, shared: Sequence[str], grid: Sequence[str], sampled: Sequence[str]) -> Space:
        """Read the texts ``NAME=...`` of the options ``--set``, ``--grid`` and ``--sample``.

        Raises ValueError that names the option for an unknown setting, one given twice, or a value that cannot be
        parsed.
        """
        known: set[str] = set()
        return cls(
            {name: parse_setting(name, text) for name, text in _named("--set", shared, known, "VALUE")},
            {name: tuple(_values(name, text).values()) for name, text in _named("--grid", grid, known, "VALUE,...")},
            {name: _sampled(name, text) for name, text in _named("--sample", sampled, known, "LOW..HIGH")},
        )

    @property
    def dataset(self) -> str:
        """The data set of all runs, or the first one of the grid."""
        return str(self.shared.get("dataset", self.grid.get("dataset", ("digits",))[0]))

    def points(self) -> dict[str, dict[str, Any]]:
        """Return the points of the grid by their names; without a grid there is one, whose name is empty."""
        points = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        found = {point_name(point): point for point in points}
        if len(found) < len(points):
            raise ValueError("the values of --grid must differ in letters and digits, which name their folders")
        return found

    def claim(self, folder: Path) -> None:
        """Store the settings in the folder of a sweep; raises ValueError if it holds a sweep with others.

        The grid may change, because its points have folders of their own.
        """
        mine = {name: setting_text(value) for name, value in self.shared.items() if name not in FREE}
        mine |= {name: str(sampled) for name, sampled in self.sampled.items()}
        path = folder / "settings.json"
        if not path.exists():
            write_json(path, mine)
        stored = read_json(path)
        differing = [name for name in {**stored, **mine} if stored.get(name) != mine.get(name)]
        if differing:
            raise ValueError(
                f"{folder} holds a sweep with another {', '.join(differing)}: give another folder by --output"
            )

    def complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a run with those that all runs share."""
        return {"dataset": self.dataset, **self.shared, **settings}

    def check(self, devices: bool) -> bool:
        """Check the settings of every point of the grid, at the ends of each sampled range; load the data once.

        Returns whether every run has a validation set. Raises ValueError, TypeError or DataError that names the
        setting.

        Args:
            devices: True to check that the devices exist here.
        """
        loaded: dict[tuple[Any, ...], Any] = {}
        validated = True
        for settings in self._corners():
            config = config_of(settings)
            check_training(settings, config)
            if devices:
                usable_device(config.device, config.backend)
            key = (config.dataset, config.likelihood, config.file_options())
            if key not in loaded:
                loaded[key] = config.load_data()
            training.check(config, loaded[key])
            validated = validated and validation_data(loaded[key], config.validation) is not None
            if config.eval_k < 1:
                raise ValueError(f"eval_k must be at least 1 to compare the runs of a sweep, got {config.eval_k}")
        return validated

    def _corners(self) -> Iterator[dict[str, Any]]:
        most = max((len(sampled.corners()) for sampled in self.sampled.values()), default=1)
        for point in self.points().values():
            for number in range(most):  # each end of each range once, not every combination of ends
                corner = {name: s.corners()[min(number, len(s.corners()) - 1)] for name, s in self.sampled.items()}
                yield self.complete({**point, **corner})


def point_name(point: Mapping[str, Any]) -> str:
    """Return the name of a point of the grid, which can be part of the name of a folder."""
    return "-".join(f"{name}={re.sub(r'[^A-Za-z0-9_.,+]', '_', setting_text(value))}" for name, value in point.items())


def _named(option: str, texts: Sequence[str], known: set[str], form: str) -> Iterator[tuple[str, str]]:
    for text in texts:
        written, equals, values = text.partition("=")
        if not equals:
            raise ValueError(f"{option} must be NAME={form}, got {text!r}")
        name = setting_name(written)
        if name == "seed":
            raise ValueError(f"{option} seed=...: the seeds are given by --seeds N")
        if option != "--set" and name in SHARED:
            raise ValueError(f"{option} {name}=...: trials are compared by it, so give one value by --set {name}=N")
        if name in known:
            raise ValueError(f"{name} is given twice by --set, --grid and --sample")
        known.add(name)
        yield name, values


def _values(name: str, text: str) -> dict[str, Any]:
    """Return values by their texts; they are separated by semicolons if there are any, else by commas."""
    parts = [part.strip() for part in text.split(";" if ";" in text else ",")]
    if not all(parts):
        raise ValueError(f"{name} must have values separated by commas (or by semicolons), got {text!r}")
    values = [parse_setting(name, part) for part in parts]
    found = {setting_text(value): value for value in values}
    if len(found) < len(values):
        texts = [setting_text(value) for value in values]
        twice = next(each for each in texts if texts.count(each) > 1)
        raise ValueError(f"{name} must have different values, got {twice} twice: give the number of seeds by --seeds")
    return found


def _sampled(name: str, text: str) -> Range | Choice:
    kind = (get_args(TYPES[name]) or (TYPES[name],))[0]
    if ".." not in text or kind not in (int, float):
        return Choice(_values(name, text))
    bounds, colon, scale = text.partition(":")
    if colon and scale != "log":
        raise ValueError(f"--sample {name} must be LOW..HIGH or LOW..HIGH:log, got {text!r}")
    low, _, high = bounds.partition("..")
    found = Range(parse_setting(name, low), parse_setting(name, high), bool(colon), kind is int)
    if not (math.isfinite(found.low) and math.isfinite(found.high) and found.low < found.high):
        raise ValueError(f"--sample {name} must go from a lower to a higher number, got {text!r}")
    if found.log and found.low <= 0:
        raise ValueError(f"--sample {name} must begin above 0 on a logarithmic scale, got {text!r}")
    return found
