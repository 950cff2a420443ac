"""Atomic replacement of files, and files of JSON."""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any


def replace_file(path: Path, content: bytes) -> None:
    """Replace the file at ``path`` atomically, by way of a hidden temporary file beside it.

    A crash leaves the earlier file intact. If several processes write the same file at once, the file holds the
    complete content of the last one.

    Raises OSError naming ``path`` if it cannot be written.
    """
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise type(error)(f"cannot write {path}: {reason(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def reason(error: Exception) -> str:
    """Return why a file cannot be read or written, for a message that names the file itself.

    System errors come without their error number. NumPy's advice to enable unpickling is replaced, since it is unsafe.
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror[0].lower()}{error.strerror[1:]}"
    if "pickle" in str(error):
        return "it is not a NumPy file, or it holds Python objects, which are never loaded"
    return str(error)


def remove_leftovers(folder: Path, *names: str) -> None:
    """Delete temporary files that crashes left in a folder to which no other process writes; names may be patterns."""
    for name in names:
        for leftover in folder.glob(f".{name}.*.tmp"):
            leftover.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as indented JSON; raises ValueError if a number is not finite."""
    replace_file(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises ValueError naming the file if it holds anything else, OSError if it cannot be read."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content
