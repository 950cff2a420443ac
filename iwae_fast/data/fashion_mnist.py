"""Fashion-MNIST: 60,000 training and 10,000 test images of 28x28 pixels (Xiao, Rasul & Vollgraf 2017)."""

from __future__ import annotations

from .files import verify
from .idx_images import SIDE, TEST, TRAIN, IdxFile, load_images
from .images import DataError, ImageData

MIRRORS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)

# Digests of the compressed files, as published by their authors; none are published for the uncompressed ones.
MD5 = {TRAIN: "8d4fb7e6c68d591d4c3dfef9ec88bf0d", TEST: "bef4ecab320f06d8554ea6380940ec79"}
IMAGES = {TRAIN: 60_000, TEST: 10_000}


def load_fashion_mnist() -> ImageData:
    """Load gray levels, bytes / 255; raises DataError if a file is damaged, or missing and not downloaded.

    For an uncompressed file only the number of images is checked.
    """
    train, test = load_images("fashion_mnist", MIRRORS, _check)
    return ImageData(
        "fashion-mnist", train, test, (SIDE, SIDE), source="Fashion-MNIST with its own split, gray levels."
    )


def _check(file: IdxFile) -> None:
    if file.compressed:
        verify(file.stored, MD5[file.part], file.path, "md5")
    elif file.images != IMAGES[file.part]:
        raise DataError(f"{file.path} has {file.images} images, expected {IMAGES[file.part]}")
