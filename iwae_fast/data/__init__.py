"""Data sets, each as tensors of flattened images: ``load(name)``."""

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
"""What the path of a file of one's own ends in."""

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
        name: of the data set, or of the file.
        whole_numbers: take bytes of a file for counts or classes, not for grey levels.
        as_stored: leave the numbers of a file as they are, memory-mapped where they are many; ``train`` and the other
            parts are :class:`Rows` then, whose batches are float32, and not float32 tensors.
        unsplit: take all of a file's single array for the test set.

    Raises ValueError for an unknown name, DataError where its files are missing, damaged or not what they should be,
    ModuleNotFoundError where it needs a package of the ``cli`` extra (digits, and whatever is downloaded).
    """
    if name.endswith(FILES):
        found = load_own(name, whole_numbers, unsplit)
        return found if as_stored else _in_memory(found)
    checks.one_of("data set", name, DATASETS, f", or a file's path that ends in {' or '.join(FILES)}")
    return DATASETS[name]()


def _in_memory(found: ImageData) -> ImageData:
    valid = None if found.valid is None else _tensor(found.valid)
    return replace(found, train=_tensor(found.train), test=_tensor(found.test), valid=valid)


def _tensor(observations: Observations) -> Tensor:
    return observations.tensor() if isinstance(observations, Rows) else observations
