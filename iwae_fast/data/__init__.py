"""Data sets as tensors of flattened images: ``load(name)``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from .. import checks
from .binarized_mnist import load_binarized_mnist
from .digits import load_digits
from .fashion_mnist import load_fashion_mnist
from .images import DataError, ImageData, binarize
from .mnist import load_mnist
from .omniglot import load_omniglot
from .own import load_own
from .rows import Observations, Rows

__all__ = ["DATASETS", "FILES", "DataError", "ImageData", "Rows", "binarize", "load"]

FILES = (".npz", ".npy")
"""Suffixes of the files that :func:`load` reads."""

DATASETS: dict[str, Callable[[], ImageData]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "binarized-mnist": load_binarized_mnist,
    "omniglot": load_omniglot,
    "fashion-mnist": load_fashion_mnist,
}


def load(name: str, *, whole_numbers: bool = False, as_stored: bool = False, unsplit: bool = False) -> ImageData:
    """Load a data set by its name, one of DATASETS, or by the path of a .npz or .npy file (:func:`.own.load_own`).

    Args:
        name: name of the data set, or path of the file.
        whole_numbers: treat the bytes of a file as counts or classes, not as gray levels.
        as_stored: keep the numbers of a file in their dtype, memory-mapped if there are many. ``train`` and the other
            parts are then :class:`Rows`, whose batches are float32, instead of float32 tensors.
        unsplit: use all of a file's single array as the test set.

    Raises ValueError for an unknown name, DataError if its files are missing, damaged or not the expected ones, and
    ModuleNotFoundError if it needs a package of the ``cli`` extra (digits, and every download).
    """
    if name.endswith(FILES):
        found = load_own(name, whole_numbers, unsplit)
        return found if as_stored else _in_memory(found)
    checks.one_of("data set", name, DATASETS, f", or the path of a {' or '.join(FILES)} file")
    return DATASETS[name]()


def _in_memory(found: ImageData) -> ImageData:
    valid = None if found.valid is None else _tensor(found.valid)
    return replace(found, train=_tensor(found.train), test=_tensor(found.test), valid=valid)


def _tensor(observations: Observations) -> Tensor:
    return observations.tensor() if isinstance(observations, Rows) else observations
