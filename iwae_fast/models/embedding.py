"""Latents of a whole data set, batch by batch: posterior means, or draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .. import checks
from ..modes import evaluation_mode
from ..ops.samples import seed_tensor

if TYPE_CHECKING:
    from .base import LatentVariableModel

OBSERVATIONS_A_BATCH = 256
"""Observations that are encoded at a time, if the data are not in batches."""

Batch = Tensor | Sequence[Any] | Mapping[str, Any]
Data = Tensor | Dataset[Any] | Iterable[Batch]


class Encoded(NamedTuple):
    """The arguments of :meth:`LatentVariableModel.encode` for a batch."""

    x: Tensor
    context: tuple[Tensor, ...]
    mask: Tensor | None


@torch.no_grad()
def encode_dataset(
    model: LatentVariableModel,
    data: Data,
    batch_size: int | None = None,
    *,
    num_context: int = 0,
    num_samples: int | None = None,
    seed: int | Tensor | None = None,
) -> Tensor:
    """Return one z for every observation of a data set, in the order of the data set: E[z] under q(z | x), or a draw.

    The model runs in evaluation mode and without gradients, and each batch is moved to its device. Memory is needed for
    one batch and the result.

    Args:
        model: one of :mod:`iwae_fast.models`.
        data: observations (N, ...); a torch Dataset, which is read in order; or a DataLoader or another iterable of
            batches. A batch is a tensor x (B, ...), a sequence whose first element is x, or a mapping with "x" and,
            where the model takes them, "context" and "mask".
        batch_size: number of observations encoded at a time, 256 if None. It must be None for an iterable of batches.
        num_context: number of elements after x, in batches that are sequences, that the encoder takes as context;
            further elements, such as labels, are ignored.
        num_samples: k: draw z by :meth:`LatentVariableModel.sample_implicit_posterior` from k samples of q(z | x),
            instead of its mean.
        seed: the seed of these draws; drawn from torch's generator if None. Noise is a function of (seed, sample,
            observation), so the batch size changes the draws by rounding only; except with an encoder that returns a
            distribution other than a Normal, whose noise depends on the batches.

    Returns:
        (N, Z), on the model's device, with the dtype of the encoder's output.

    Raises:
        TypeError, ValueError: data of another kind.
    """
    if isinstance(num_context, bool) or not isinstance(num_context, int) or num_context < 0:
        raise ValueError(f"num_context must be an int of at least 0, got {num_context!r}")
    if seed is not None and num_samples is None:
        raise ValueError("seed must be None for posterior means, which are not random: give num_samples for draws")
    parameter = next(model.parameters(), None)
    latents: list[Tensor] = []
    done = 0
    with evaluation_mode(model):
        for batch in _batches(data, batch_size):
            x, context, mask = _parts(batch, num_context)
            device = x.device if parameter is None else parameter.device
            x, context = x.to(device), tuple(c.to(device) for c in context)
            checks.context(context, len(x))
            given: dict[str, Any] = {"context": context, "mask": None if mask is None else mask.to(device)}
            if num_samples is None:
                latents.append(model.mean_of(model.encode(x, **given)))
            else:
                seed = seed_tensor(seed, device)  # drawn once
                latents.append(model.sample_implicit_posterior(x, num_samples, seed, observation_offset=done, **given))
            done += len(x)
    if not latents:
        raise ValueError("data must hold at least one batch, got none")
    return torch.cat(latents)


def _batches(data: Data, batch_size: int | None) -> Iterator[Batch]:
    size = OBSERVATIONS_A_BATCH if batch_size is None else checks.positive("batch_size", batch_size)
    if isinstance(data, Tensor):
        yield from data.split(size)
    elif isinstance(data, Dataset):
        yield from DataLoader(data, batch_size=size)
    elif isinstance(data, (tuple, str, Mapping)) or not isinstance(data, Iterable):
        raise TypeError(
            "data must be a tensor (N, ...), a torch Dataset (TensorDataset(x, y) for tensors that belong together) or "
            f"an iterable of batches such as a DataLoader, got {type(data).__name__}"
        )
    elif batch_size is not None:
        raise ValueError(f"batch_size must be None for data that are batches already, got {batch_size}")
    else:
        yield from data


def _parts(batch: Batch, num_context: int) -> Encoded:
    mask = None
    if isinstance(batch, Mapping):
        if "x" not in batch:
            raise ValueError(f"a batch that is a mapping must have 'x', got {', '.join(map(repr, batch)) or 'nothing'}")
        x, mask, context = batch["x"], batch.get("mask"), batch.get("context", ())
        context = (context,) if isinstance(context, Tensor) else tuple(context)
    elif isinstance(batch, Sequence) and batch:
        x, context = batch[0], tuple(batch[1 : 1 + num_context])
        if len(context) < num_context:
            raise ValueError(f"a batch must have {num_context} elements of context after x, got {len(batch) - 1}")
    else:
        x, context = batch, ()
    if not isinstance(x, Tensor) or x.dim() == 0:
        raise TypeError(f"x of a batch must be a tensor (B, ...), got {_told(x)}")
    return Encoded(x, context, mask)


def _told(value: Any) -> str:
    return "a scalar" if isinstance(value, Tensor) else type(value).__name__
