"""Optional packages that some data sets and files need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra_needed_by(what: str, extra: str = "cli") -> Iterator[None]:
    """Make a ModuleNotFoundError of an import inside the context name an extra of the package.

    Args:
        what: subject of the message, such as "data set 'digits'".
        extra: name of the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        raise ModuleNotFoundError(
            f"{what} needs {package}, which is not installed: pip install 'iwae_fast[{extra}]'", name=package
        ) from None
