"""Location and verification of the files of the known data sets.

A data set's folder is searched for under ``$IWAE_FAST_DATA`` if that is set, else in the user's cache folder, to which
missing files are downloaded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from .download import download
from .extra import extra_needed_by
from .images import DataError

ENVIRONMENT = "IWAE_FAST_DATA"

Content = TypeVar("Content")


def obtain(
    dataset: str,
    names: Sequence[str],
    read: Callable[[Path, str], Content],
    *,
    remote: str,
    mirrors: Sequence[str],
) -> tuple[Content, str]:
    """Return the content of a file of a data set, and the name under which it was found.

    Args:
        dataset: name of the folder.
        names: possible names of the file, the preferred one first.
        read: reads (path, name) and returns the content, name being one of ``names`` even if the path ends in another;
            raises DataError if the file is damaged or not the expected one.
        remote: the name of the file on the mirrors, one of ``names``.
        mirrors: URLs of folders, each ending in a slash.

    Raises DataError if the file is missing and cannot be downloaded, and the errors of ``read``.
    """
    root = os.environ.get(ENVIRONMENT)
    folder = (Path(root) if root else cache()) / dataset
    for name in names:
        if (folder / name).exists():
            return read(folder / name, name), name
    if not root:
        return download(folder, remote, mirrors, read), remote
    if not folder.is_dir():
        raise DataError(f"the folder {folder} does not exist (${ENVIRONMENT} is {root!r}; unset it to download)")
    missing = f"neither {' nor '.join(names)}" if len(names) > 1 else f"no {names[0]}"
    raise DataError(f"{folder} has {missing} (${ENVIRONMENT} is {root!r}; unset it to download)")


def cache() -> Path:
    """Return the folder of downloaded data sets."""
    with extra_needed_by(f"downloading a data set (${ENVIRONMENT} is not set)"):
        import platformdirs

    return Path(platformdirs.user_cache_dir("iwae_fast"))


def verify(content: bytes | memoryview, expected: str, path: Path, algorithm: str = "sha256") -> None:
    """Raise DataError unless the hexadecimal digest of ``content``, read from ``path``, is ``expected``."""
    digest = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if digest != expected:
        raise DataError(f"{path} is not the expected file: its {algorithm} is {digest}, expected {expected}")
