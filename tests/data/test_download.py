"""Tests of downloads: complete, interrupted, resumed and corrupt; no file gets its final name before verification."""

import io
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from iwae_fast.data import download as module
from iwae_fast.data.download import download
from iwae_fast.data.images import DataError

CONTENT = np.random.default_rng(0).bytes(1000)
NAME = "file.gz"


class Site:
    """The files of a local server, and its behavior."""

    def __init__(self):
        self.files = {f"/{NAME}": CONTENT}
        self.ranges = True
        self.cuts = []
        """After how many bytes of its body each coming answer stops; later ones are whole."""
        self.asked = []
        """The Range header of every request so far."""

    def answer(self, request):
        asked = request.headers["Range"]
        self.asked.append(asked)
        body = self.files.get(request.path)
        if body is None:
            return request.send_error(404)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        if start >= len(body):
            return request.send_error(416)
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        request.wfile.write(body[start:][: self.cuts.pop(0) if self.cuts else None])


@pytest.fixture
def site(monkeypatch):
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            site.answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    site.address = f"http://127.0.0.1:{server.server_address[1]}/"
    monkeypatch.setattr(module, "CHUNK_BYTES", 100)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield site
    server.shutdown()
    server.server_close()


def read(path, name):
    assert name == NAME
    content = path.read_bytes()
    if content != CONTENT:
        raise DataError(f"{path} is wrong")
    return content


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "set"


@pytest.fixture
def partial(folder):
    folder.mkdir(parents=True)
    return folder / f"{NAME}.partial"


def fetch(site, folder):
    return download(folder, NAME, (site.address,), read)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_whole(site, folder):
    assert fetch(site, folder) == CONTENT
    assert names(folder) == [NAME]
    assert fetch(site, folder) == CONTENT
    assert site.asked == [None]


def test_a_connection_that_breaks_is_taken_up_again(site, folder):
    site.cuts = [300, 200]
    assert fetch(site, folder) == CONTENT
    assert names(folder) == [NAME]
    assert site.asked == [None, "bytes=300-", "bytes=500-"]


def test_the_next_call_takes_up_what_the_last_one_left(site, folder):
    site.cuts = [300, 0]
    with pytest.raises(DataError, match=r"cannot download file\.gz \(http.*Error\): put it into"):
        fetch(site, folder)
    assert names(folder) == [f"{NAME}.partial"]
    assert (folder / f"{NAME}.partial").read_bytes() == CONTENT[:300]
    assert fetch(site, folder) == CONTENT
    assert site.asked == [None, "bytes=300-", "bytes=300-"]
    assert names(folder) == [NAME]


def test_a_server_without_ranges_sends_everything_again(site, folder):
    site.ranges = False
    site.cuts = [300]
    assert fetch(site, folder) == CONTENT
    assert site.asked == [None, "bytes=300-"]


def test_a_server_that_always_stops_at_the_same_place(site, folder):
    site.ranges = False
    site.cuts = [300] * 10
    with pytest.raises(DataError, match="cannot download"):
        fetch(site, folder)
    assert len(site.asked) == 2
    assert names(folder) == [f"{NAME}.partial"]


@pytest.mark.parametrize("size", [300, 1000, 1300])
def test_a_corrupt_partial_file_is_begun_again(site, folder, partial, size):
    partial.write_bytes(b"x" * size)
    assert fetch(site, folder) == CONTENT
    assert site.asked == [f"bytes={size}-", None]
    assert names(folder) == [NAME]


def test_a_partial_file_that_lacks_only_its_name(site, folder, partial):
    partial.write_bytes(CONTENT)
    assert fetch(site, folder) == CONTENT
    assert names(folder) == [NAME]


def test_a_wrong_file_is_deleted(site, folder):
    site.files[f"/{NAME}"] = b"a page that says something else"
    with pytest.raises(DataError, match="not the right file"):
        fetch(site, folder)
    assert names(folder) == []


def test_a_missing_file_is_said_by_its_status(site, folder):
    site.files.clear()
    with pytest.raises(DataError, match="HTTPError 404") as caught:
        fetch(site, folder)
    assert "\n" not in str(caught.value)
    assert names(folder) == []


@pytest.mark.parametrize("second", [CONTENT, CONTENT[:200] + CONTENT[300:]])
def test_the_second_mirror_goes_on_where_the_first_stopped(site, folder, second):
    """Resume a download from the second mirror, or start again if its file has other bytes."""
    site.files = {f"/a/{NAME}": second, f"/b/{NAME}": CONTENT}
    site.cuts = [400, 0]
    assert download(folder, NAME, (f"{site.address}a/", f"{site.address}b/"), read) == CONTENT
    assert site.asked == [None, "bytes=400-", "bytes=400-"] + ([None] if second != CONTENT else [])


def test_who_comes_at_the_same_time_waits(site, folder):
    results = []
    threads = [threading.Thread(target=lambda: results.append(fetch(site, folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [CONTENT] * 4
    assert site.asked == [None]


def test_progress_is_for_terminals(site, folder, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen, file = Terminal(), io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen)
    fetch(site, folder)
    assert f"downloading {NAME}" in screen.getvalue()
    (folder / NAME).unlink()
    monkeypatch.setattr(sys, "stderr", file)
    fetch(site, folder)
    assert file.getvalue() == ""
