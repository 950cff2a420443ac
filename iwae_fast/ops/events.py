"""Observations with several axes of features, such as images (B, C, H, W), for ops that take a single one."""

from __future__ import annotations

from torch import Tensor

from ..reference import widen


def flattened(
    event: tuple[int, ...], parameters: dict[str, Tensor], mask: Tensor | None
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Flatten the last axes into one axis of features, as views if the strides allow it.

    Args:
        event: the sizes of the axes of features, to which the last axes of everything broadcast.
        parameters: the tensors of a density.
        mask: bool, or None.
    """
    flat = {name: _flat(tensor, event) for name, tensor in parameters.items()}
    return flat, None if mask is None else _flat(mask, event)


def _flat(tensor: Tensor, event: tuple[int, ...]) -> Tensor:
    axes = len(event)
    if tensor.dim() < axes:
        tensor = tensor[(None,) * (axes - tensor.dim())]
    own = tuple(tensor.shape[-axes:])
    if own != event and any(size != 1 for size in own):
        # Some axes of features are broadcast, as for a scale per channel, so they must be materialized. The cast makes
        # the gradient's sum over them happen before rounding to half precision.
        if tensor.is_floating_point():
            (tensor,) = widen(tensor)
        tensor = tensor.expand(*tensor.shape[:-axes], *event)
    return tensor.flatten(-axes)
