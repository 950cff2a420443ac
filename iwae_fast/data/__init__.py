"""Data sets, each as tensors of flattened images: ``load(name)``."""

from __future__ import annotations

from collections.abc import Callable

from .. import checks
from .binarized_mnist import load_binarized_mnist
from .digits import load_digits
from .fashion_mnist import load_fashion_mnist
from .images import DataError, ImageData, binarize
from .mnist import load_mnist
from .omniglot import load_omniglot
from .own import load_own

__all__ = ["DATASETS", "FILES", "DataError", "ImageData", "binarize", "load"]

FILES = (".npz", ".npy")
"""What the path of a file of one's own ends in."""

DATASETS: dict[str, Callable[[], ImageData]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "binarized-mnist": load_binarized_mnist,
    "omniglot": load_omniglot,
    "fashion-mnist": load_fashion_mnist,
}


def load(name: str, *, whole_numbers: bool = False) -> ImageData:
    """The data set ``name``: one of DATASETS, or the path of a .npz or .npy file (:func:`.own.load_own`), whose bytes
    are taken for grey levels unless ``whole_numbers`` says that they are counts or classes.

    Raises ValueError for an unknown name, DataError where its files are missing, damaged or not what they should be.
    """
    if name.endswith(FILES):
        return load_own(name, whole_numbers)
    checks.one_of("data set", name, DATASETS, f", or a file's path that ends in {' or '.join(FILES)}")
    return DATASETS[name]()
