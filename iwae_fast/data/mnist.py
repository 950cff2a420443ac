"""MNIST: 60,000 training and 10,000 test images of 28x28 pixels (LeCun, Bottou, Bengio & Haffner 1998).

The files are looked for in the folder ``mnist`` under ``$IWAE_FAST_DATA`` if that is set, else in the cache
folder, else downloaded into it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .idx import parse_images, read_bytes
from .images import DataError, ImageData

ENVIRONMENT = "IWAE_FAST_DATA"

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

# Of the uncompressed bytes: mirrors compress differently.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
}

DOWNLOAD_SECONDS = 60


def load_mnist() -> ImageData:
    """Grey levels are bytes / 255. DataError where a file is missing (and cannot be downloaded) or damaged."""
    return ImageData("mnist", _images("train-images-idx3-ubyte"), _images("t10k-images-idx3-ubyte"), (28, 28))


def _images(name: str) -> Tensor:
    levels = _find(name)
    return torch.from_numpy(levels.reshape(len(levels), -1).astype(np.float32)).div_(255.0)


def _find(name: str) -> np.ndarray:
    root = os.environ.get(ENVIRONMENT)
    folder = (Path(root) if root else _cache()) / "mnist"
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return _read(path, name)
    if not root:
        return _download(name, folder)
    if not folder.is_dir():
        raise DataError(f"the folder {folder} does not exist (${ENVIRONMENT} is {root!r})")
    raise DataError(f"{folder} has neither {name} nor {name}.gz (${ENVIRONMENT} is {root!r})")


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("iwae_fast"))


def _read(path: Path, name: str) -> np.ndarray:
    content = read_bytes(path)
    images = parse_images(content, path)
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[name]:
        raise DataError(f"{path} is not the file it should be: sha256 of the content {digest}, not {SHA256[name]}")
    return images


def _download(name: str, folder: Path) -> np.ndarray:
    """Fetch a file from the first mirror that gives the right one."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    failures = []
    for mirror in MIRRORS:
        try:
            path = pooch.retrieve(
                f"{mirror}{name}.gz",
                known_hash=None,
                fname=f"{name}.gz",
                path=folder,
                downloader=pooch.HTTPDownloader(timeout=DOWNLOAD_SECONDS),
            )
            return _read(Path(path), name)
        except (OSError, ValueError) as error:
            failures.append(f"{mirror}: {type(error).__name__}")
        except DataError:
            # Kept, it would be taken for the data set the next time.
            (folder / f"{name}.gz").unlink()
            failures.append(f"{mirror}: not the right file")
    raise DataError(
        f"cannot download {name}.gz ({'; '.join(failures)}): put it into {folder}, or set ${ENVIRONMENT} to the "
        "parent of a folder mnist that has it"
    )
