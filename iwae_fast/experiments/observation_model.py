"""The likelihood of a run, from its settings."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.rows import Observations
from ..likelihoods import LIKELIHOODS, Column, DiscretizedLogistic, Gaussian, Likelihood, Mixed, StudentT
from ..likelihoods.columns import as_columns, infer_columns, read_schema

if TYPE_CHECKING:
    from .config import TrainConfig

MIXED = "mixed"
NAMES = (*LIKELIHOODS, MIXED)
"""Likelihoods of the command line: those of :data:`iwae_fast.likelihoods.LIKELIHOODS`, and the one with a schema."""

BOUNDED: dict[str, Callable[..., Likelihood]] = {
    "gaussian": Gaussian,
    "student-t": StudentT,
    "discretized-logistic": DiscretizedLogistic,
    MIXED: Mixed,
}
"""Likelihoods whose decoder returns a logarithm of a scale, which can be bounded."""

ROWS_LOOKED_AT = 10_000
"""The first rows of a table, from which a schema is inferred."""


def schema_text(source: str) -> str:
    """Return the setting ``schema`` for the path of a TOML file; the text of the setting is returned unchanged."""
    columns = as_columns(json.loads(source)) if source.lstrip().startswith("[") else read_schema(Path(source))
    return _as_text(columns)


def _as_text(columns: tuple[Column, ...]) -> str:
    return json.dumps([[part for part in column if part is not None] for column in columns])


def bounds_of(config: TrainConfig) -> tuple[float, float] | None:
    """Return the setting ``log_std_bounds``, such as "-5,3", as two numbers."""
    if config.log_std_bounds is None:
        return None
    try:
        low, high = (float(end) for end in config.log_std_bounds.split(","))
    except ValueError:
        raise ValueError(f"log_std_bounds must be two numbers such as -5,3, got {config.log_std_bounds!r}") from None
    return low, high


def likelihood_of(config: TrainConfig) -> Likelihood:
    """Build the likelihood of a run.

    Raises ValueError if its settings are not valid, or a schema is missing or given to another likelihood than "mixed".
    """
    name, bounds = config.likelihood, bounds_of(config)
    if name == MIXED:
        if config.schema is None:
            raise ValueError("likelihood 'mixed' needs the kinds of the columns: --schema FILE")
        columns = as_columns(json.loads(config.schema))
        return Mixed(columns) if bounds is None else Mixed(columns, log_std_bounds=bounds)
    if config.schema is not None:
        raise ValueError(f"schema has an effect only with likelihood 'mixed', got likelihood {name!r}")
    kind = BOUNDED.get(name)
    return LIKELIHOODS[name]() if bounds is None or kind is None else kind(log_std_bounds=bounds)


def offer(observations: Observations, name: str) -> str:
    """Return a message that offers a schema for a table without one."""
    columns: tuple[Column, ...] = infer_columns(observations[: min(len(observations), ROWS_LOOKED_AT)])
    return (
        f"likelihood 'mixed' needs the kinds of the columns of {name}, as a TOML file or as text. Guessed from "
        f"its numbers (read it before you use it): --schema {shlex.quote(_as_text(columns))}"
    )
