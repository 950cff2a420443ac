"""MNIST: 60,000 training and 10,000 test images of 28x28 pixels (LeCun, Bottou, Bengio & Haffner 1998)."""

from __future__ import annotations

from .files import verify
from .idx_images import SIDE, TEST, TRAIN, IdxFile, load_images
from .images import ImageData

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

# Digests of the uncompressed bytes, because mirrors compress differently.
SHA256 = {
    TRAIN: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    TEST: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
}


def load_mnist() -> ImageData:
    """Load gray levels, bytes / 255; raises DataError if a file is damaged, or missing and not downloaded."""
    train, test = load_images("mnist", MIRRORS, _check)
    return ImageData("mnist", train, test, (SIDE, SIDE), source="MNIST with its own split, gray levels.")


def _check(file: IdxFile) -> None:
    verify(file.content, SHA256[file.part], file.path)
