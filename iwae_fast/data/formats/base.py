"""Shared parts of the readers of files: what they return, and the errors of files that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...files import reason
from ..images import DataError
from ..stored import Stored

ALONE = ""
"""Name of the part of a file that is not divided into parts."""

PARTS = ("train", "test", "valid")


@dataclass(frozen=True)
class Content:
    """The observations of a file with their labels."""

    parts: Mapping[str, Stored]
    """Arrays of observations: one of the name ALONE, or those of PARTS that the file has."""
    labels: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Labels (N,), numbers or strings, by the same names; none for parts without labels."""
    columns: tuple[str, ...] = ()
    """Names of the features of a table; empty for arrays."""
    division: NDArray[Any] | None = None
    """The values (N,) of the column or array that divides the part ALONE, if one was asked for."""
    name: str = ""
    """Description of the observations for errors and reports: the name of their array, if the file names arrays."""


class Archive(Protocol):
    """A file of arrays with names."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of all arrays by name. A single array without a name has the name ALONE."""
        ...

    def read(self, name: str) -> Stored:
        """Return an array, whose numbers may stay in the file."""
        ...


@contextmanager
def readable(path: Path, fault: str, *errors: type[Exception]) -> Iterator[None]:
    """Make the errors of a library that reads ``path`` a DataError in one line.

    Args:
        path: the file.
        fault: the fault of such a file in words, such as "is damaged or not a CSV file".
        errors: types of errors, beside OSError, ValueError and MemoryError, that the library raises for bad files.
    """
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except MemoryError:
        raise DataError(f"{path} does not fit into memory") from None
    except Exception as error:
        if not isinstance(error, (OSError, ValueError, *errors)):
            raise
        told = " ".join(reason(error).split()) or type(error).__name__
        raise DataError(f"{path} {fault}: {told}") from error


def check_fits(size: int, path: Path) -> None:
    """Raise DataError if ``size`` bytes, which a file would take when it is read, exceed the memory of the machine."""
    memory = physical_memory()
    if memory is not None and size > memory:
        raise DataError(
            f"{path} would take {size / 2**30:,.1f} GiB in memory, and there are {memory / 2**30:,.1f} GiB: save its "
            "numbers as a .npy file, which is read by rows"
        )


def physical_memory() -> int | None:
    """Return the bytes of memory of the machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return names with shapes for a message, at most twelve."""
    told = [f"{name} {shape}" for name, shape in shapes.items()]
    return ", ".join(told[:12]) + (f" and {len(told) - 12} more" if len(told) > 12 else "") or "no array"


def vector(array: NDArray[Any]) -> NDArray[Any] | None:
    """Return (N,) of an array (N,), (N, 1) or (1, N) of numbers or strings, with bytes decoded; else None."""
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.ndim != 1 or array.dtype.kind not in "buifSU":
        return None
    return np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array
