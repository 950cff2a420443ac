"""Packages that some data sets need beyond the library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra_needed_by(what: str) -> Iterator[None]:
    """Around imports of the ``cli`` extra: the ModuleNotFoundError where one is not installed names the extra.

    ``what`` is the subject of its sentence, such as "data set 'digits'".
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        raise ModuleNotFoundError(
            f"{what} needs {package}, which is not installed: pip install 'iwae_fast[cli]'", name=package
        ) from None
