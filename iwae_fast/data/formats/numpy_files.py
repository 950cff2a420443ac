"""NumPy's .npy and .npz files, SciPy's sparse .npz files among them, whose contents are not trusted."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..images import DataError
from ..options import FileOptions
from .base import ALONE, Content, check_fits, readable
from .choose import choose
from .sparse import SPARSE_NAMES, from_parts

MAPPED_FROM = 1 << 26
"""Bytes of the smallest array that is memory-mapped: reading a smaller one is quick, and a later change of the file
cannot alter it."""

CHECKED_AT_ONCE = 1 << 24
"""Bytes of a mapped archive that are read at a time to compute its checksum."""

LOCAL_HEADER_BYTES = 30
"""Size of the header of a file in a zip archive; its last four bytes are the lengths of the name and of the extra field
that follow it."""

MEMBER = ".npy"
"""Suffix of the arrays inside a .npz file."""

LONGEST_HEADER = 1 << 16
"""Bytes of the longest header of an array that is parsed."""


class Header(NamedTuple):
    """The header of a .npy file, or of an array in a .npz file."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    size: int
    """Bytes of the header itself."""

    @property
    def content(self) -> int:
        """The bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


class NumpyArchive:
    """The arrays of a .npz file by name, or the one array of a .npy file under the name ALONE.

    Args:
        path: the file; its content, not its name, determines its format.
        mapped: if True, large arrays of a .npy file, or of an uncompressed .npz file, are memory-mapped read-only;
            compressed arrays are read into memory.

    Raises DataError if the file is missing, damaged, in neither format, or holds objects instead of numbers.
    """

    def __init__(self, path: Path, mapped: bool = True) -> None:
        self.path, self.mapped = path, mapped
        with _readable(path):
            with path.open("rb") as file:
                self.is_zip = file.read(2) == b"PK"
                headers: dict[str, Header | None] = {} if self.is_zip else {ALONE: _header(file, 0)}
            if self.is_zip:
                with zipfile.ZipFile(path) as archive:
                    headers = dict(_headers(archive))
        self.headers: Mapping[str, Header | None] = headers

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: header.shape for name, header in self.headers.items() if header is not None}

    def read(self, name: str) -> NDArray[Any]:
        header = self.headers[name]
        if header is None:
            raise DataError(f"{self.path} has {name!r}, which is not an array")
        with _readable(self.path):
            if header.dtype.hasobject:  # stored as a pickle, and loading a pickle can run arbitrary code
                raise ValueError("pickled objects")
            if not self.is_zip:
                return self._alone(header)
            with zipfile.ZipFile(self.path) as archive:
                entry = archive.getinfo(name + MEMBER)
                if self.mapped and (found := self._mapped_member(entry, header)) is not None:
                    return found
                check_fits(header.content, self.path)
                with archive.open(entry) as file:
                    return np.lib.format.read_array(file, allow_pickle=False)

    def _alone(self, header: Header) -> NDArray[Any]:
        if self.mapped and header.content >= MAPPED_FROM:
            return _mapped(self.path, header, header.size)
        check_fits(header.content, self.path)
        with self.path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    def _mapped_member(self, entry: zipfile.ZipInfo, header: Header) -> NDArray[Any] | None:
        """Map an array of a .npz file; return None if it is small or compressed. Raises ValueError for a wrong
        checksum."""
        is_plain = entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1
        if header.content < MAPPED_FROM or not is_plain:
            return None
        with self.path.open("rb") as file:
            file.seek(entry.header_offset)
            *_, name_bytes, extra_bytes = struct.unpack("<26xHH", file.read(LOCAL_HEADER_BYTES))
        offset = entry.header_offset + LOCAL_HEADER_BYTES + name_bytes + extra_bytes
        if _checksum(self.path, offset, entry.file_size) != entry.CRC:
            raise ValueError(f"the checksum of {entry.filename} differs from that stored in the archive")
        return _mapped(self.path, header, offset + header.size)


def read_arrays(path: Path, names: tuple[str, ...] | None = None, *, mapped: bool = False) -> dict[str, NDArray[Any]]:
    """Read the arrays of a .npz file by name, or the one array of a .npy file under the empty name.

    Args:
        path: the file; its content, not its name, determines its format.
        names: the arrays of a .npz file to read, those that it does not have being skipped; all arrays if None.
        mapped: as for :class:`NumpyArchive`.

    Raises DataError as :class:`NumpyArchive` does.
    """
    archive = NumpyArchive(path, mapped)
    return {name: archive.read(name) for name in archive.headers if names is None or name in (*names, ALONE)}


def read_numpy(path: Path, options: FileOptions) -> Content:
    """Return the observations of a .npy or .npz file, or of a sparse matrix in a .npz file from scipy.sparse.save_npz.

    Raises DataError.
    """
    archive = NumpyArchive(path)
    if archive.shapes.keys() >= SPARSE_NAMES:
        parts = {name: archive.read(name) for name in archive.headers}
        return Content({ALONE: from_parts(parts, path)})
    return choose(archive, path, options)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    errors = (EOFError, RuntimeError, NotImplementedError, struct.error, zipfile.BadZipFile, zlib.error)
    with readable(path, "is damaged or does not hold plain arrays", *errors):
        yield


def _headers(archive: zipfile.ZipFile) -> Iterator[tuple[str, Header | None]]:
    """Yield the names and headers of an archive; None for anything else than an array.

    Raises ValueError for an array whose numbers are fewer or more than its shape says, before they are read.
    """
    for entry in archive.infolist():
        if not entry.filename.endswith(MEMBER):
            yield entry.filename, None
            continue
        with archive.open(entry) as file:
            header = _header(file, 0)
        if not header.dtype.hasobject and header.size + header.content != entry.file_size:
            raise ValueError(
                f"{entry.filename} has {entry.file_size} bytes, expected {header.size + header.content} by its shape "
                f"{header.shape}"
            )
        yield entry.filename[: -len(MEMBER)], header


def _header(file: IO[bytes], offset: int) -> Header:
    """Read the header of an array that begins at ``offset``; raises ValueError if there is none."""
    file.seek(offset)
    try:
        version = np.lib.format.read_magic(file)
    except ValueError:
        raise ValueError("it is not a NumPy file") from None
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=LONGEST_HEADER)
    elif version in ((2, 0), (3, 0)):  # the third is the second in another encoding of names of fields
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file, max_header_size=LONGEST_HEADER)
    else:
        raise ValueError(f"its version {version} of NumPy's format is not known")
    return Header(shape, fortran, dtype, file.tell() - offset)


def _mapped(path: Path, header: Header, start: int) -> NDArray[Any]:
    """Map numbers that begin at ``start``; raises ValueError if the file is shorter."""
    return np.memmap(path, header.dtype, "r", start, header.shape, "F" if header.fortran else "C")


def _checksum(path: Path, offset: int, size: int) -> int:
    value = 0
    with path.open("rb") as file:
        file.seek(offset)
        while size and (part := file.read(min(size, CHECKED_AT_ONCE))):
            value = zlib.crc32(part, value)
            size -= len(part)
    return value
