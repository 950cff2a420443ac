"""Data sets, each as tensors of flattened images: ``load(name)``."""

from __future__ import annotations

from collections.abc import Callable

from .binarized_mnist import load_binarized_mnist
from .digits import load_digits
from .images import DataError, ImageData, binarize
from .mnist import load_mnist
from .omniglot import load_omniglot

__all__ = ["DATASETS", "FILES", "DataError", "ImageData", "binarize", "load"]

FILES = (".npz", ".npy")
"""What the path of a file of one's own ends in."""

DATASETS: dict[str, Callable[[], ImageData]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "binarized-mnist": load_binarized_mnist,
    "omniglot": load_omniglot,
}


def load(name: str) -> ImageData:
    """The data set ``name``; ValueError for an unknown name, DataError where its files are missing or damaged."""
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")
    return DATASETS[name]()
