"""Folders of images, which Pillow reads."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..extra import extra_needed_by
from ..images import DataError
from ..options import FileOptions
from .base import ALONE, PARTS, Content, check_fits, readable
from .choose import WORDS

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
"""Suffixes of the files that are images; others are skipped."""

GRAY = ("1", "L", "LA")
"""Pillow's names of the modes of gray images of at most 8 bits; those of 16 bits are refused."""

DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def read_image_folder(path: Path, options: FileOptions) -> Content:
    """Return the images of a folder as bytes, (N, height, width), or (N, height, width, 3) if one of them has colors.

    Images lie in the folder itself, or in a folder for each class, whose name is their label; either in the folder or
    in its folders train and test, and optionally valid. They are read in the order of their names.

    Raises DataError if images have different sizes, cannot be read, or do not fit into memory.
    """
    for name in ("array", "labels", "column"):
        if getattr(options, name) is not None and not options.optional:
            raise DataError(
                f"{path} is a folder of images, for which {'split' if name == 'column' else name} "
                f"{getattr(options, name)!r} has no effect: labels are the names of its folders"
            )
    folders = _folders(path)
    files = {part: _files(folder) for part, folder in folders.items()}
    for part, found in files.items():
        if not found:
            raise DataError(
                f"{folders[part]} does not have images ({', '.join(SUFFIXES)}), neither directly nor in its folders"
            )
    every = [file for found in files.values() for file, _ in found]
    size, is_color = _form(every)
    check_fits(len(every) * size[0] * size[1] * (3 if is_color else 1), path)
    parts = {part: _read([file for file, _ in found], size, is_color) for part, found in files.items()}
    labels = {
        part: np.array([label for _, label in found])
        for part, found in files.items()
        if any(label for _, label in found)
    }
    return Content(parts, labels, name="images")


def _folders(path: Path) -> Mapping[str, Path]:
    """Return the folders of the parts: those named so if training and test are there, else the folder itself."""
    inner = {inside.name.lower(): inside for inside in sorted(path.iterdir()) if inside.is_dir()}
    parts = {part: inner[word] for part in PARTS for word in WORDS[part] if word in inner}
    return parts if {"train", "test"} <= parts.keys() else {ALONE: path}


def _files(folder: Path) -> list[tuple[Path, str]]:
    """Return the images of a folder, and those of the folders in it with their names."""
    inside = [folder, *sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))]
    return [
        (file, "" if each == folder else each.name)
        for each in inside
        for file in sorted(each.iterdir())
        if file.suffix.lower() in SUFFIXES and file.is_file()
    ]


def _form(files: Sequence[Path]) -> tuple[tuple[int, int], bool]:
    """Return the height and width of all images, and whether one has colors, from their headers."""
    size: tuple[int, int] | None = None
    is_color = False
    for file in files:
        with _opened(file) as image:
            found = (image.height, image.width)
            if image.mode in DEEP:
                raise DataError(f"{file} has numbers of more than 8 bits (mode {image.mode}): save it with 8 bits")
            is_color = is_color or image.mode not in GRAY
        if size is not None and found != size:
            raise DataError(
                f"{file} has {found[0]} x {found[1]} pixels (height x width), expected {size[0]} x {size[1]} as in "
                f"{files[0].name}: all images need one size"
            )
        size = found
    return size or (0, 0), is_color


def _read(files: Sequence[Path], size: tuple[int, int], is_color: bool) -> NDArray[np.uint8]:
    shape = (len(files), *size, 3) if is_color else (len(files), *size)
    found = np.empty(shape, dtype=np.uint8)
    for number, file in enumerate(files):
        with _opened(file) as image:
            found[number] = np.asarray(image.convert("RGB" if is_color else "L"))
    return found


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Open an image; its errors, and Pillow's refusal of images that would take too much memory, name the file."""
    with extra_needed_by(f"the image {file}", "files"):
        from PIL import Image

    # A damaged image raises an error of almost any type.
    with readable(file, "is damaged or not an image", Exception), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file) as image:
            yield image
