"""Downloads that go on where they stopped, and count as done only when their content is right."""

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
    """Fetch a file from the first mirror that gives the right one.

    What has arrived is kept as NAME.partial, with which the next attempt, or the next call, goes on; the file gets its
    name once ``read`` accepts it. Processes that want the same file wait for the first of them.

    Args:
        folder: where the file is to be; made if need be.
        name: of the file there and on each mirror.
        mirrors: addresses of folders, each ending in a slash.
        read: makes the content of (path, name), and raises a DataError where that is not the right file.

    Returns what ``read`` does. Raises DataError where no mirror has the file.
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
    """Complete the partial file and read it; a wrong one is deleted, and fetched whole if it was resumed."""
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
    """Request what is missing, and again after a failure for as long as each attempt adds to what is there."""
    from requests import RequestException

    while True:
        before = _size(partial)
        try:
            return _request(url, partial)
        except RequestException:
            if _size(partial) <= before:
                raise


def _request(url: str, partial: Path) -> None:
    """One request for what is missing; RequestException where it fails or stops early, what has come being kept."""
    import requests

    start = _size(partial)
    headers = {"Accept-Encoding": "identity"}  # ranges count the bytes of the encoding that is sent
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        if start and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing is missing
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            start = 0  # a server that knows no ranges sends everything
        left = int(response.headers.get("Content-Length", 0))
        with partial.open("ab" if start else "wb") as file, _progress(partial.stem, start, left) as advance:
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
                advance(len(chunk))
            if file.tell() < start + left:  # which older releases of urllib3 leave to be found
                raise requests.ConnectionError(f"{url} stopped after {file.tell()} of {start + left} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _progress(name: str, done: int, left: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error if that is a terminal; yields what is to be called with the number of bytes arrived."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("downloading {task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=done + left if left else None, completed=done)
        yield lambda count: progress.advance(task, count)
