"""Reader of NumPy's .npy and .npz files, whose contents are not trusted."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import reason
from .images import DataError

MAPPED_FROM = 1 << 26
"""Bytes of the smallest array that is memory-mapped: reading a smaller one is quick, and a later change of the file
cannot alter it."""

CHECKED_AT_ONCE = 1 << 24
"""Bytes of a mapped archive that are read at a time to compute its checksum."""

LOCAL_HEADER_BYTES = 30
"""Size of the header of a file in a zip archive; its last four bytes are the lengths of the name and of the extra field
that follow it."""


def read_arrays(path: Path, names: tuple[str, ...] | None = None, *, mapped: bool = False) -> dict[str, NDArray[Any]]:
    """Read the arrays of a .npz file by name, or the one array of a .npy file under the empty name.

    Args:
        path: the file; its content, not its name, determines its format.
        names: the arrays of a .npz file to read, those that it does not have being skipped; all arrays if None.
        mapped: if True, large arrays of a .npy file, or of an uncompressed .npz file, are memory-mapped read-only;
            compressed arrays are read into memory.

    Raises DataError if the file is missing, damaged, in neither format, or holds objects instead of numbers.
    """
    try:
        # Objects are stored as pickles, and loading a pickle can run arbitrary code.
        if mapped and (mapping := _mapped(path, 0)) is not None:
            return {"": mapping}
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {"": content}
        with content:
            arrays: dict[str, NDArray[Any]] = {}
            for name in content.files:
                if names is None or name in names:
                    mapping = _member(path, name) if mapped else None
                    arrays[name] = content[name] if mapping is None else mapping
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged or does not hold plain arrays: {reason(error)}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # any other file in the archive is returned as bytes
            raise DataError(f"{path} has {name!r}, which is not an array")
    return arrays


def _member(path: Path, name: str) -> NDArray[Any] | None:
    """Map an array of a .npz file; return None if it is small or compressed. Raises ValueError for a wrong checksum."""
    with zipfile.ZipFile(path) as archive:
        entry = next((e for e in archive.infolist() if e.filename == f"{name}.npy"), None)
    if entry is None or entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        return None
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        *_, name_bytes, extra_bytes = struct.unpack("<26xHH", file.read(LOCAL_HEADER_BYTES))
    offset = entry.header_offset + LOCAL_HEADER_BYTES + name_bytes + extra_bytes
    found = _mapped(path, offset)
    if found is not None and _checksum(path, offset, entry.file_size) != entry.CRC:
        raise ValueError(f"the checksum of {name} differs from that stored in the archive")
    return found


def _mapped(path: Path, offset: int) -> NDArray[Any] | None:
    """Map the array whose .npy header is at ``offset``; return None if none is there, or it is small or of objects."""
    with path.open("rb") as file:
        file.seek(offset)
        try:
            version = np.lib.format.read_magic(file)
        except ValueError:
            return None
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            return None
        shape, fortran, dtype = read(file)
        start = file.tell()
    if dtype.hasobject or math.prod(shape) * dtype.itemsize < MAPPED_FROM:
        return None
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


def _checksum(path: Path, offset: int, size: int) -> int:
    value = 0
    with path.open("rb") as file:
        file.seek(offset)
        while size and (part := file.read(min(size, CHECKED_AT_ONCE))):
            value = zlib.crc32(part, value)
            size -= len(part)
    return value
