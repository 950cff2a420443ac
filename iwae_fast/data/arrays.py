"""NumPy's .npy and .npz files, none of whose contents are trusted."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import reason
from .images import DataError


def read_arrays(path: Path, names: tuple[str, ...] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file by name, or a .npy file's one array under the empty name.

    Args:
        path: the file; its content, not its name, says which of the two it is.
        names: the arrays of a .npz file that are wanted, as far as they are there; all if None.

    Raises DataError where the file is missing, damaged, neither of the two, or holds objects instead of numbers.
    """
    try:
        # Objects are pickles, and a pickle can run any code.
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {"": content}
        with content:
            arrays = {name: content[name] for name in content.files if names is None or name in names}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged or holds no plain arrays: {reason(error)}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # any other file in the archive comes as bytes
            raise DataError(f"{path} has {name!r}, which is no array")
    return arrays
