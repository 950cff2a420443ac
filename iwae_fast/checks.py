"""Checks of arguments, whose errors name the argument, its value, and what was expected; and the dtypes of tensors:
those that are supported, those that sums are accumulated in, and the one that autocast gives to matrix products."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
WIDE = (torch.float32, torch.float64)
"""Dtypes that sums are accumulated in."""
REDUCTIONS = ("mean", "sum", "none")


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """Return float64 if any tensor is float64, else float32."""
    for tensor in tensors:
        if tensor.dtype == torch.float64:
            return torch.float64
    return torch.float32


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the dtype that autocast casts a linear layer to on this device; None where it is off or does not exist."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):  # raises for a device without autocast
        return None
    return torch.get_autocast_dtype(device.type)


def floating(**tensors: Any) -> None:
    """Raise unless every argument is a tensor of a supported floating dtype, and all are on one device."""
    device = None
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.dtype not in FLOATING:
            raise TypeError(f"{name} must be float32, float64, bfloat16 or float16, got {tensor.dtype}")
        if device is not None and tensor.device != device[1]:
            raise ValueError(f"{name} is on {tensor.device}, but {device[0]} is on {device[1]}")
        device = device or (name, tensor.device)


def features(**tensors: Tensor) -> tuple[int, ...]:
    """Raise unless every argument has a last (feature) axis and all shapes broadcast; return the common shape."""
    return broadcast_features({name: tuple(tensor.shape) for name, tensor in tensors.items()})


def broadcast_features(shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Raise unless all named shapes have a last (feature) axis and broadcast; return the common shape."""
    for name, shape in shapes.items():
        if not shape:
            raise ValueError(f"{name} must have a last axis of features, got a scalar of shape ()")
    return broadcast(shapes)


def broadcast(shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape to which all the named shapes broadcast; raise ValueError if they do not broadcast."""
    longest: tuple[int, ...] = ()
    for shape in shapes.values():
        if len(shape) > len(longest):
            longest = shape
    rank = len(longest)
    if all(shape == longest[rank - len(shape) :] for shape in shapes.values()):
        return longest
    result = [1] * rank
    for shape in shapes.values():
        for axis, size in enumerate(shape, rank - len(shape)):
            if size != 1:
                if result[axis] not in (1, size):
                    named = ", ".join(f"{name} {tuple(s)}" for name, s in shapes.items())
                    raise ValueError(f"shapes do not broadcast: {named}")
                result[axis] = size
    return tuple(result)


def event(event_dims: Any, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split a shape into the axes before the last ``event_dims`` axes, and these, which are features."""
    if isinstance(event_dims, bool) or not isinstance(event_dims, int):
        raise TypeError(f"event_dims must be an int, got {type(event_dims).__name__}")
    if not 1 <= event_dims <= len(shape):
        raise ValueError(f"event_dims must be from 1 to {len(shape)} for data {shape}, got {event_dims}")
    return shape[:-event_dims], shape[-event_dims:]


def log_ratio(
    shape: tuple[int, ...], likelihood: tuple[int, ...], event_dims: int, tensors: Iterable[str]
) -> tuple[int, ...]:
    """Raise unless the log-ratio has the axes of the likelihood (k, ...), or one of them is a scalar; return the common
    shape.

    A missing axis is not broadcast: otherwise images whose rows are mistaken for observations would be accepted if
    their sizes happen to agree.
    """
    if len(shape) == len(likelihood) or not shape or not likelihood:
        return broadcast({"log_ratio": shape, "likelihood (k, ...)": likelihood})
    message = f"log_ratio {shape} must have the axes of the likelihood (k, ...) {likelihood}, each of its size or 1"
    if shape == likelihood[: len(shape)]:
        dims = event_dims + len(likelihood) - len(shape)
        message += (
            f"; where the last {dims} axes of {', '.join(tensors)} are features, as of images, pass event_dims={dims}"
        )
    raise ValueError(message)


def mask(mask: Any, shape: tuple[int, ...], device: torch.device) -> None:
    """Raise unless a mask is None, or a bool tensor on the same device that broadcasts to the shape of the data."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a bool tensor (True where observed), got {got}")
    if mask.device != device:
        raise ValueError(f"mask is on {mask.device}, but the data are on {device}")
    if mask.dim() == 0:
        raise ValueError("mask must have a last axis of features, got a scalar of shape ()")
    if broadcast({"mask": tuple(mask.shape), "data": shape}) != shape:
        raise ValueError(f"mask {tuple(mask.shape)} does not broadcast to the data {shape}")


def sample_indices(sample_indices: Any, shape: tuple[int, int], device: torch.device, sample_offset: int) -> None:
    """Raise unless indices of samples are None, or an int64 tensor with one entry per row of noise and no offset.

    The indices themselves are not checked: that would force a device synchronization.
    """
    if sample_indices is None:
        return
    if not isinstance(sample_indices, Tensor) or sample_indices.dtype != torch.int64:
        got = sample_indices.dtype if isinstance(sample_indices, Tensor) else type(sample_indices).__name__
        raise TypeError(f"sample_indices must be an int64 tensor of indices, got {got}")
    if sample_indices.device != device:
        raise ValueError(f"sample_indices is on {sample_indices.device}, but the noise is to be on {device}")
    if tuple(sample_indices.shape) != shape:
        raise ValueError(f"sample_indices must be (num_samples, B) = {shape}, got {tuple(sample_indices.shape)}")
    if sample_offset != 0:
        raise ValueError(f"sample_offset must be 0 if sample_indices is given, got {sample_offset}")


def dimension(log_weights: Tensor, dim: int) -> int:
    """Raise unless ``dim`` is an axis of the log-weights with at least one sample; return it as a nonnegative index."""
    if log_weights.dim() == 0:
        raise ValueError("log_weights must have an axis of samples, got a scalar of shape ()")
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"dim must be an int, got {type(dim).__name__}")
    if not -log_weights.dim() <= dim < log_weights.dim():
        raise ValueError(f"dim {dim} is out of range for log_weights of shape {tuple(log_weights.shape)}")
    dim %= log_weights.dim()
    if log_weights.shape[dim] == 0:
        raise ValueError(f"log_weights {tuple(log_weights.shape)} hold k = 0 samples along dim {dim}: need k >= 1")
    return dim


def last_axis(name: str, tensor: Tensor, size: int, owner: str) -> None:
    """Raise ValueError unless the last axis of a tensor has the size of its owner, without broadcasting."""
    if tensor.dim() == 0 or tensor.shape[-1] != size:
        raise ValueError(f"{name} must be (..., {size}) as {owner} is, got {tuple(tensor.shape)}")


def positive(name: str, value: Any) -> int:
    """Raise TypeError or ValueError unless ``value`` is an int of at least 1; return it."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def not_negative(name: str, value: Any) -> int:
    """Raise TypeError or ValueError unless ``value`` is an int of at least 0; return it."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
    return value


def one_of(what: str, name: str, known: Collection[str], besides: str = "") -> str:
    """Raise ValueError unless a name is known; return it.

    The error suggests the nearest known name. ``besides`` is appended to the list of known names.
    """
    if name in known:
        return name
    near = nearest(name, known)
    suggestion = f"{near} " if near else ""
    raise ValueError(f"unknown {what} {name!r}: {suggestion}choose one of {', '.join(known)}{besides}")


def nearest(name: str, known: Collection[str]) -> str:
    """Return "did you mean ...?" with the known name of the most similar spelling; empty if none is similar."""
    near = get_close_matches(name, known, n=1, cutoff=0.7)
    return f"did you mean {near[0]!r}?" if near else ""


def reduction(reduction: Any) -> None:
    """Raise ValueError unless ``reduction`` is one of ``REDUCTIONS``."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")


def observations(x: Any, integers: bool) -> None:
    """Raise TypeError or ValueError unless ``x`` is a tensor (B, ...) of a floating dtype, or of an integer dtype if
    ``integers`` is True."""
    if not isinstance(x, Tensor):
        hint = ": convert it with torch.as_tensor" if hasattr(x, "__array__") or isinstance(x, list | tuple) else ""
        raise TypeError(f"x must be a torch.Tensor of observations (B, ...), got {type(x).__name__}{hint}")
    if x.dtype not in FLOATING and not (integers and x.dtype in INTEGERS):
        wanted = "float32, float64, bfloat16, float16" + (" or an integer dtype" if integers else "")
        raise TypeError(
            f"x must be {wanted}, as the model's likelihood takes it, got {x.dtype}: convert it, as with x.float()"
        )
    if x.dim() < 2:
        raise ValueError(f"x must be (B, ...), one row per observation, got shape {tuple(x.shape)}")


def context(context: Any, observations: int) -> None:
    """Raise TypeError or ValueError unless ``context`` is a sequence of tensors with one row per observation."""
    if not isinstance(context, list | tuple):
        got = "a tensor" if isinstance(context, Tensor) else type(context).__name__
        raise TypeError(f"context must be a sequence of tensors, such as (y,), got {got}")
    for part in context:
        if not isinstance(part, Tensor):
            raise TypeError(f"context must be tensors, got {type(part).__name__}")
        if part.dim() == 0 or len(part) != observations:
            raise ValueError(f"context {tuple(part.shape)} must have one row per observation, {observations} in all")
