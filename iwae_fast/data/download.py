"""Downloads that resume where they stopped and are complete only when their content is verified."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from .extra import extra_needed_by
from .images import DataError

TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 16

Content = TypeVar("Content")


def download(folder: Path, name: str, mirrors: Sequence[str], read: Callable[[Path, str], Content]) -> Content:
    """Fetch a file from the first mirror that serves the right one.

    The bytes received so far are kept as NAME.partial, from which the next attempt or call resumes; the file gets its
    name once ``read`` accepts it. Other processes that need the same file wait for the download.

    Args:
        folder: folder of the file; created if necessary.
        name: name of the file in the folder and on each mirror.
        mirrors: URLs of folders, each ending in a slash.
        read: reads (path, name) and returns the content; raises DataError if it is not the right file.

    Returns the result of ``read``. Raises DataError if no mirror has the file.
    """
    with extra_needed_by("a download"):
        from filelock import FileLock
        from requests import RequestException

    target, partial = folder / name, folder / f"{name}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if target.exists():
            return read(target, name)
        failures = []
        for mirror in mirrors:
            try:
                content = _fetch(mirror + name, partial, name, read)
            except RequestException as error:
                status = "" if error.response is None else f" {error.response.status_code}"
                failures.append(f"{mirror}: {type(error).__name__}{status}")
            except DataError:
                failures.append(f"{mirror}: not the right file")
            else:
                partial.replace(target)
                return content
    raise DataError(
        f"cannot download {name} ({'; '.join(failures)}): put it into {folder}, or set $IWAE_FAST_DATA to the "
        f"parent of a folder {folder.name} that has it"
    )


def _fetch(url: str, partial: Path, name: str, read: Callable[[Path, str], Content]) -> Content:
    """Complete the partial file and read it; delete a wrong one, and fetch it again whole if it was resumed."""
    resumed = partial.exists()
    _complete(url, partial)
    try:
        return read(partial, name)
    except DataError:
        partial.unlink()
        if not resumed:
            raise
    return _fetch(url, partial, name, read)


def _complete(url: str, partial: Path) -> None:
    """Request the missing bytes; repeat after a failure as long as each attempt adds bytes."""
    from requests import RequestException

    while True:
        before = _size(partial)
        try:
            return _request(url, partial)
        except RequestException:
            if _size(partial) <= before:
                raise


def _request(url: str, partial: Path) -> None:
    """Send one request for the missing bytes, keeping those received if it fails or stops early (RequestException)."""
    import requests

    start = _size(partial)
    headers = {"Accept-Encoding": "identity"}  # ranges count bytes of the transferred encoding
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        if start and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing is missing
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            start = 0  # a server without range support sends the whole file
        left = int(response.headers.get("Content-Length", 0))
        with partial.open("ab" if start else "wb") as file, _progress(partial.stem, start, left) as advance:
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
                advance(len(chunk))
            if file.tell() < start + left:  # older releases of urllib3 do not raise
                raise requests.ConnectionError(f"{url} stopped after {file.tell()} of {start + left} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _progress(name: str, done: int, left: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error if that is a terminal; yield a function to call with each number of new bytes."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("downloading {task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=done + left if left else None, completed=done)
        yield lambda count: progress.advance(task, count)
