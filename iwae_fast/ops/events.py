"""Observations with several axes of features, such as images (B, C, H, W), for ops that take one."""

from __future__ import annotations

from torch import Tensor

from ..reference import widen


def flattened(
    event: tuple[int, ...], parameters: dict[str, Tensor], mask: Tensor | None
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Make one axis of features of the last ones, in views wherever strides allow it.

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
        # Part of the features is broadcast, as the scale of a channel is: these are written out. A gradient is summed
        # over them before it is rounded to half precision.
        if tensor.is_floating_point():
            (tensor,) = widen(tensor)
        tensor = tensor.expand(*tensor.shape[:-axes], *event)
    return tensor.flatten(-axes)
