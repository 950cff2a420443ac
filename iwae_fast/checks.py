"""Checks of arguments: each error names the argument, what it was, and what was expected."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
REDUCTIONS = ("mean", "sum", "none")


def floating(**tensors: Any) -> None:
    """Every argument is a tensor of a supported floating dtype, and all are on one device."""
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
    """Every argument has a last (feature) axis and all shapes broadcast; returns the common shape."""
    for name, tensor in tensors.items():
        if tensor.dim() == 0:
            raise ValueError(f"{name} must have a last axis of features, got a scalar of shape ()")
    return broadcast({name: tuple(tensor.shape) for name, tensor in tensors.items()})


def broadcast(shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape to which all the named shapes broadcast."""
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
    """The last ``event_dims`` axes of a shape are features; returns the axes before them, and them."""
    if isinstance(event_dims, bool) or not isinstance(event_dims, int):
        raise TypeError(f"event_dims must be an int, got {type(event_dims).__name__}")
    if not 1 <= event_dims <= len(shape):
        raise ValueError(f"event_dims must be from 1 to {len(shape)} for data {shape}, got {event_dims}")
    return shape[:-event_dims], shape[-event_dims:]


def log_ratio(
    log_ratio: Tensor, likelihood: tuple[int, ...], event_dims: int, tensors: Iterable[str]
) -> tuple[int, ...]:
    """The log-ratio has the axes of the likelihood (k, ...), or either has none; returns their common shape.

    An axis that one of the two lacks is not made up for: images whose rows are taken for observations would pass where
    their sizes happen to agree.
    """
    shape = tuple(log_ratio.shape)
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
    """A mask is None, or a bool tensor on the same device that broadcasts to the shape of the data."""
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
    """Indices of samples are None, or an int64 tensor of one for each row of noise, that no offset shifts.

    The indices themselves are not looked at: a GPU's would have to be waited for.
    """
    if sample_indices is None:
        return
    if not isinstance(sample_indices, Tensor) or sample_indices.dtype != torch.int64:
        got = sample_indices.dtype if isinstance(sample_indices, Tensor) else type(sample_indices).__name__
        raise TypeError(f"sample_indices must be an int64 tensor of indices, got {got}")
    if sample_indices.device != device:
        raise ValueError(f"sample_indices is on {sample_indices.device}, but the noise is wanted on {device}")
    if tuple(sample_indices.shape) != shape:
        raise ValueError(f"sample_indices must be (num_samples, B) = {shape}, got {tuple(sample_indices.shape)}")
    if sample_offset != 0:
        raise ValueError(f"sample_indices takes the place of sample_offset, which must then be 0, got {sample_offset}")


def dimension(log_weights: Tensor, dim: int) -> int:
    """``dim`` is an axis of the log-weights and holds at least one sample; returns it counted from the front."""
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
    """Refuse a tensor whose last axis would have to be broadcast to the size that belongs to its owner."""
    if tensor.dim() == 0 or tensor.shape[-1] != size:
        raise ValueError(f"{name} must be (..., {size}) as {owner} is, got {tuple(tensor.shape)}")


def positive(name: str, value: Any) -> int:
    """A whole number of at least one."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def not_negative(name: str, value: Any) -> int:
    """Raise TypeError or ValueError unless ``value`` is a whole number of at least 0; returns it."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
    return value


def one_of(what: str, name: str, known: Collection[str], besides: str = "") -> str:
    """Check that a name is a known one and return it; the error suggests the nearest, and may name what else is taken
    ``besides``."""
    if name in known:
        return name
    near = nearest(name, known)
    suggestion = f"{near} " if near else ""
    raise ValueError(f"unknown {what} {name!r}: {suggestion}choose one of {', '.join(known)}{besides}")


def nearest(name: str, known: Collection[str]) -> str:
    """Return the question whether the known name was meant that is spelled most alike; empty where none is."""
    near = get_close_matches(name, known, n=1, cutoff=0.7)
    return f"did you mean {near[0]!r}?" if near else ""


def reduction(reduction: Any) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")


def observations(x: Any, integers: bool) -> None:
    """Raise TypeError or ValueError unless ``x`` is a tensor (B, ...) of a floating dtype, or, where ``integers`` says
    so, of an integer one."""
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
            raise ValueError(f"context {tuple(part.shape)} must have a row for each of {observations} observations")
