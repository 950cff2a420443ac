"""What a model is shown of an image."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ..data import binarize
from ..seeds import Purpose, generator

SUBSET_SEED = 0
"""The same for every run."""


def as_pixels(images: Tensor, grey_levels: bool, seed: int, purpose: Purpose, *indices: int) -> Tensor:
    """A fresh draw of every pixel as Bernoulli(grey level), the same for the same seed, purpose and indices; rows that
    are no grey levels are what they are."""
    if not grey_levels:
        return images
    return binarize(images, generator(seed, purpose, *indices, device=images.device))


def subset_order(observations: int) -> Tensor:
    """An order of so many observations, always the same one, whose beginnings are random subsets."""
    return torch.randperm(observations, generator=generator(SUBSET_SEED, Purpose.SUBSET))


def shuffled(images: Tensor) -> Tensor:
    """The rows in that order."""
    return images[subset_order(len(images)).to(images.device)]


def fingerprint(images: Tensor) -> str:
    """The same for the same images in the same order, and for no others."""
    return hashlib.sha256(f"{tuple(images.shape)}".encode() + images.cpu().contiguous().numpy().tobytes()).hexdigest()
