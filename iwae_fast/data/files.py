"""Where the files of the known data sets are, and what they must hold.

A data set's folder is looked for under ``$IWAE_FAST_DATA`` if that is set, else in the cache folder of the user, into
which a missing file is downloaded.
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
    """What a file of a data set holds, and the name under which it was found.

    Args:
        dataset: the name of the folder.
        names: what the file may be called, the preferred name first.
        read: makes the content of (path, name), name being one of ``names`` whatever the path is; a DataError
            where the file is damaged or another one.
        remote: which of ``names`` the mirrors have.
        mirrors: addresses of folders, each ending in a slash.

    Raises DataError where the file is missing and cannot be downloaded, and what ``read`` raises.
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
    """The folder of downloaded data sets."""
    with extra_needed_by(f"a data set that ${ENVIRONMENT} does not name"):
        import pooch

    return Path(pooch.os_cache("iwae_fast"))


def verify(content: bytes | memoryview, expected: str, path: Path, algorithm: str = "sha256") -> None:
    """DataError unless the hexadecimal digest of ``content``, which comes from ``path``, is ``expected``."""
    digest = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    if digest != expected:
        raise DataError(f"{path} is not the file it should be: its {algorithm} is {digest}, not {expected}")
