"""Schemas of tables: the name and the kind of each column."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from .. import checks

KINDS = ("real", "count", "binary", "categorical")

MOST_CLASSES_INFERRED = 20
"""Whole numbers 0, 1, ... that all occur are taken for classes if there are at most this many of them."""


class Column(NamedTuple):
    """A column of a table, one number per row."""

    name: str
    kind: str
    """"real" for real numbers, "count" for 0, 1, 2, ..., "binary" for 0 and 1, "categorical" for 0, ..., C - 1."""
    classes: int | None = None
    """C, for a column of kind "categorical"."""


Schema: TypeAlias = Mapping[str, Any] | Sequence[Column]
"""Columns in their order: a mapping from names to kinds, such as {"age": "real", "blood": {"kind": "categorical",
"classes": 4}}, or a sequence of :class:`Column`."""


def as_columns(schema: Schema) -> tuple[Column, ...]:
    """Return the columns of a schema; raise TypeError or ValueError, naming the column, for anything else."""
    if isinstance(schema, Mapping):
        columns = [_column(str(name), kind) for name, kind in schema.items()]
    elif isinstance(schema, Sequence) and not isinstance(schema, str):
        columns = [
            _checked(*each) if isinstance(each, tuple | list) else _column(f"column {i}", each)
            for i, each in enumerate(schema)
        ]
    else:
        raise TypeError(f"columns must be a mapping from names to kinds, or a sequence, got {type(schema).__name__}")
    if not columns:
        raise ValueError("columns must have at least one column, got none")
    names = [column.name for column in columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"columns must have different names, got {twice!r} twice")
    return tuple(columns)


def _column(name: str, kind: Any) -> Column:
    if isinstance(kind, Mapping):
        unknown = set(kind) - {"kind", "classes"}
        if unknown or "kind" not in kind:
            raise ValueError(f"column {name!r} must have kind, and classes if it is categorical, got {dict(kind)}")
        return _checked(name, kind["kind"], kind.get("classes"))
    return _checked(name, kind)


def _checked(name: str, kind: Any, classes: Any = None) -> Column:
    if not isinstance(kind, str):
        raise TypeError(f"the kind of column {name!r} must be one of {', '.join(KINDS)}, got {type(kind).__name__}")
    if kind not in KINDS:
        near = checks.nearest(kind, KINDS)
        raise ValueError(
            f"the kind of column {name!r} must be one of {', '.join(KINDS)}, got {kind!r}{near and ': '}{near}"
        )
    if kind == "categorical":
        if checks.positive(f"classes of column {name!r}", classes) < 2:
            raise ValueError(f"classes of column {name!r} must be at least 2, got {classes}")
    elif classes is not None:
        raise ValueError(f"classes of column {name!r} must be omitted for kind {kind!r}, got {classes}")
    return Column(str(name), kind, classes)


def read_schema(path: str | Path) -> tuple[Column, ...]:
    """Read a schema from a TOML file with a table ``[columns]``, in the order of its entries:

        [columns]
        age = "real"
        blood = { kind = "categorical", classes = 4 }

    Raises ValueError, naming the file, if it is not such a file, and OSError if it cannot be read.
    """
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef]
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        if set(content) != {"columns"} or not isinstance(content["columns"], Mapping):
            raise ValueError(f"it must have one table, [columns], got {', '.join(content) or 'nothing'}")
        return as_columns(content["columns"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a schema of columns: {error}") from error


def as_toml(columns: Iterable[Column]) -> str:
    """Return a schema as the text of a file for :func:`read_schema`."""
    lines = ["[columns]"]
    for name, kind, classes in columns:
        value = f'"{kind}"' if classes is None else f'{{ kind = "{kind}", classes = {classes} }}'
        lines.append(f"{json.dumps(name)} = {value}")
    return "\n".join(lines) + "\n"


def infer_columns(table: Tensor, names: Sequence[str] | None = None) -> tuple[Column, ...]:
    """Guess the schema of a table (N, D) from its numbers, without NaN.

    A column of 0 and 1 is binary. One of whole numbers 0, ..., C - 1 that all occur, with C at most 20, is categorical;
    other whole numbers from 0 on are counts. Anything else is real, and so are columns without numbers. Numbers cannot
    tell ordered levels or small counts from classes: read the result before it is used.
    """
    if table.dim() != 2:
        raise ValueError(f"table must be (N, D), got {tuple(table.shape)}")
    given = [f"x{i}" for i in range(table.shape[1])] if names is None else list(names)
    if len(given) != table.shape[1]:
        raise ValueError(f"names must have one name per column, {table.shape[1]} in all, got {len(given)}")
    return tuple(_inferred(name, column[~column.isnan()]) for name, column in zip(given, table.T, strict=True))


def _inferred(name: str, numbers: Tensor) -> Column:
    if numbers.numel() == 0 or not bool((numbers.isfinite() & (numbers == numbers.round()) & (numbers >= 0)).all()):
        return Column(name, "real")
    distinct = torch.unique(numbers)
    if distinct.max() <= 1:
        return Column(name, "binary")
    if len(distinct) <= MOST_CLASSES_INFERRED and distinct.max().item() == len(distinct) - 1:
        return Column(name, "categorical", len(distinct))
    return Column(name, "count") if math.isfinite(distinct.max().item()) else Column(name, "real")
