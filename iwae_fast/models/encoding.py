"""The call of an encoder: masked features, dtypes, and errors that name the observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..modules import as_parameters

WRONG_DTYPE = ("type", "not implemented for")
WRONG_SHAPE = ("shapes cannot be multiplied", "Expected 3D", "expected input")
"""Words in torch's errors from which the cause is recognized."""


def run_encoder(encoder: nn.Module, x: Tensor, context: Sequence[Tensor], mask: Tensor | None) -> Any:
    """Call an encoder with zeros in place of masked features.

    An encoder with the attribute ``takes_mask`` that is True also gets ``mask=``, bool in the shape of x, or None.
    Floating observations are cast to the dtype of its parameters, integers are passed unchanged. Raises TypeError if
    the encoder does not take integers, and ValueError if its first layer does not take observations of this shape.
    """
    options = {}
    if getattr(encoder, "takes_mask", False):
        options["mask"] = None if mask is None else observed_features(mask, x)
    x = visible(x, mask)
    if x.is_floating_point():
        x = as_parameters(encoder, x)
    try:
        return encoder(x, *context, **options)
    except RuntimeError as error:
        what, name = str(error), type(encoder).__name__
        if not x.is_floating_point() and any(words in what for words in WRONG_DTYPE):
            raise TypeError(
                f"x is {x.dtype}, which the encoder, a {name}, does not take: convert x, as with x.float(), or convert "
                "it inside the encoder"
            ) from error
        if any(words in what for words in WRONG_SHAPE):
            raise ValueError(
                f"x {tuple(x.shape)} has a shape that the encoder, a {name}, does not take: {what}"
            ) from error
        raise


def observed_features(mask: Tensor, x: Tensor) -> Tensor:
    """Return a mask expanded to the shape of the observations."""
    checks.mask(mask, tuple(x.shape), x.device)
    return mask.expand(x.shape)


def visible(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return observations with zeros in place of masked features, in their own dtype."""
    return x if mask is None else torch.where(observed_features(mask, x), x, 0)
