"""Sources of log-weights: what an evaluation needs of a model, for the package's models and for any other."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..models import LatentVariableModel
from ..models.base import check_model
from ..ops.samples import seed_tensor
from ..seeds import number_of, torch_seeded
from .diagnostics import pareto_k_of_largest
from .observations import Chunk
from .replays import Replays
from .rows import ON_A_CPU, device_rows

ROWS_PER_DRAW_ON_A_GPU = 2**16
"""The rows (samples times observations) of a draw on a GPU whose noise depends on the number of samples drawn at once.
It is a constant because results would otherwise depend on the memory that is free."""

INDICES = ("sample_offset", "observation_offset")
"""The arguments of a draw whose noise is a function of indices."""

ANY_NAME = "**"
"""The entry of a list of arguments for those of any name."""

LogWeightsOfChunk = Callable[[int, int], Tensor]
"""A function (first sample, count) -> log-weights (count, B) of fixed observations."""


class Source(ABC):
    """The log-weights log p(x, z) - log q(z | x) of a model, as :func:`iwae_fast.evaluate.log_likelihood` needs them.

    A subclass defines :meth:`prepared`. :class:`iwae_fast.evaluate.FromDraws` is the source of a function.

    Args:
        modules: the networks. They run in evaluation mode, their device is that of a loader's batches, and a journal
            identifies the model by their parameters.
        functions: functions of the model. Those that are an nn.Module, or a method of one, add it to the networks.
    """

    def __init__(
        self, modules: nn.Module | Iterable[nn.Module] = (), functions: Iterable[Callable[..., Any]] = ()
    ) -> None:
        networks = [modules] if isinstance(modules, nn.Module) else list(modules)
        for module in networks:
            if not isinstance(module, nn.Module):
                raise TypeError(f"modules must be torch.nn.Modules, got {type(module).__name__}")
        owners = (each if isinstance(each, nn.Module) else getattr(each, "__self__", None) for each in functions)
        networks += [owner for owner in owners if isinstance(owner, nn.Module)]
        self.module: nn.Module = nn.ModuleList({id(module): module for module in networks}.values())

    @property
    def device(self) -> torch.device | None:
        """The device to which a loader's batches are moved; None if they stay where they are."""
        return next((parameter.device for parameter in self.module.parameters()), None)

    def check(self, x: Any, context: Sequence[Tensor]) -> None:
        """Raise TypeError or ValueError, naming the argument, unless x is a tensor of observations (B, ...), and
        context has one row per observation."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a torch.Tensor of observations (B, ...), got {type(x).__name__}")
        if x.dim() == 0:
            raise ValueError("x must be (B, ...), one row per observation, got a scalar")
        checks.context(context, len(x))

    def parts(self, batch: Any, index: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return observations and context of a loader's batch with this index; raise TypeError for other batches."""
        x = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
        if not isinstance(x, Tensor):
            raise TypeError(
                f"x must be a tensor or an iterable of batches, each a tensor or a tuple whose first element is one: "
                f"batch {index} is {type(batch).__name__}"
            )
        return x, ()

    def check_support(self, x: Tensor, mask: Tensor | None) -> None:  # noqa: B027  (most sources have no likelihood)
        """Raise ValueError for observations outside the likelihood's support. Forces a device synchronization."""

    def rows(self, x: Tensor) -> int:
        """Return the number of rows (samples times observations) to evaluate at once."""
        return device_rows(self.module, x)

    @abstractmethod
    def prepared(self, chunk: Chunk, seed: int, step: int, num_steps: int) -> LogWeightsOfChunk:
        """Return the log-weights of a chunk of observations, as a function of the samples.

        Args:
            chunk: the observations.
            seed: the seed of the evaluation, in [0, 2^63).
            step: the number of samples that will be asked for at once, except at the end.
            num_steps: how often that will be.
        """

    def check_values(self, log_weights: Tensor, first_sample: int, chunk: Chunk) -> None:
        """Raise ValueError for log-weights (n, B) that are not numbers."""
        bad = log_weights.isnan()
        if bad.any():
            sample, observation = (int(index) for index in bad.nonzero()[0])
            raise ValueError(
                "log-weights must be numbers, or -inf where p(x, z) = 0, got NaN for sample "
                f"{first_sample + sample} of observation {chunk.first + observation}"
            )

    def pareto_k(self, tail: Tensor) -> Tensor:
        """Return :func:`iwae_fast.evaluate.diagnostics.pareto_k_of_largest`."""
        return pareto_k_of_largest(tail)


class ModelSource(Source):
    """The log-weights of one of :mod:`iwae_fast.models`."""

    def __init__(self, model: LatentVariableModel) -> None:
        check_model(model)
        self.module: nn.Module = model
        self.model: LatentVariableModel = model
        self.replays: Replays = Replays(model)

    def check(self, x: Any, context: Sequence[Tensor]) -> None:
        self.model.check_batch(x, context)

    def check_support(self, x: Tensor, mask: Tensor | None) -> None:
        self.model.likelihood.check_support(x, mask)

    def prepared(self, chunk: Chunk, seed: int, step: int, num_steps: int) -> LogWeightsOfChunk:
        model, replays = self.model, self.replays
        posterior = model.encode(chunk.x, context=chunk.context, mask=chunk.mask)
        key = seed_tensor(seed, chunk.x.device)
        captured = replays.of(chunk, posterior, key, step, num_steps)

        def log_weights(first: int, count: int) -> Tensor:
            if captured is not None and captured.count == count and replays.reason is None:
                return captured(first)
            return model.log_weights(
                chunk.x,
                count,
                key,
                context=chunk.context,
                mask=chunk.mask,
                posterior=posterior,
                sample_offset=first,
                observation_offset=chunk.first,
            )

        return log_weights

    def check_values(self, log_weights: Tensor, first_sample: int, chunk: Chunk) -> None:
        """Accept NaN, which becomes the observation's result: looking for it would synchronize with the device."""

    def pareto_k(self, tail: Tensor) -> Tensor:
        return self.replays.pareto_k(tail)


class FromDraws(Source):
    """A model given by a function that draws log-weights.

    The function is called as ``draw(x, num_samples, seed)`` and returns log p(x, z_i) - log q(z_i | x) of k new samples
    z_i ~ q(z | x) per observation: (k, B) in nats, float32 or float64, on the device of x, without a graph. -inf is a
    sample with p(x, z_i) = 0. Together the calls draw every sample once, and none that is not used.

    - **Noise that depends on the call.** Each call gets an integer seed of its own, made of the evaluation's seed and
      the indices of the call's first sample and first observation. During the call torch's generators are seeded with
      it, so a function that draws by torch need not use it. The same seed and chunk size give the same result.
      Another chunk size, and another split of the observations into batches or ranks, gives other noise.
    - **Noise by index.** If the function has the arguments ``sample_offset`` and ``observation_offset``, every call
      gets the evaluation's seed and the indices of its first sample and observation, as
      :func:`iwae_fast.standard_normal` takes them. Its noise must be a function of (seed, sample, observation); then
      the result does not depend on the chunk size, batches or ranks, up to rounding.

    If the evaluation is given ``context`` or ``mask``, the rows of the call's observations are passed as ``context=``
    and ``mask=``.

    Args:
        draw: the function.
        modules: the networks that the function uses. They run in evaluation mode, their device is that of a loader's
            batches, and a journal identifies the model by their parameters. If the function is an nn.Module, or a
            method of one, that is one of them.
        functions: further functions whose networks are used in the same way.

    Raises:
        TypeError: ``draw`` is not a function, or has only one of the two offsets.
    """

    def __init__(
        self,
        draw: Callable[..., Tensor],
        modules: nn.Module | Iterable[nn.Module] = (),
        functions: Iterable[Callable[..., Any]] = (),
    ) -> None:
        if not callable(draw) or isinstance(draw, type):
            raise TypeError(
                f"draw must be a function draw(x, num_samples, seed) that returns log-weights (k, B), got {_told(draw)}"
            )
        super().__init__(modules, (draw, *functions))
        self.draw = draw
        self._arguments = _arguments(draw.forward if isinstance(draw, nn.Module) else draw)
        given = [name for name in INDICES if name in self._arguments]
        if len(given) == 1:
            raise TypeError(f"draw must have both {' and '.join(INDICES)} or neither, got only {given[0]}")
        self.by_index: bool = bool(given)

    def rows(self, x: Tensor) -> int:
        if self.by_index:
            return super().rows(x)
        return ROWS_PER_DRAW_ON_A_GPU if x.device.type == "cuda" else ON_A_CPU

    def prepared(self, chunk: Chunk, seed: int, step: int, num_steps: int) -> LogWeightsOfChunk:  # noqa: ARG002
        x = chunk.x
        options: dict[str, Any] = {"context": chunk.context} if chunk.context else {}
        if chunk.mask is not None:
            options["mask"] = chunk.mask
        for name in options:
            if self._arguments and not {name, ANY_NAME} & set(self._arguments):
                raise TypeError(f"draw must have an argument {name!r} for an evaluation with {name}, got one without")

        def log_weights(first: int, count: int) -> Tensor:
            if len(x) == 0:
                return x.new_empty((count, 0), dtype=torch.float64)
            if self.by_index:
                found = self.draw(x, count, seed, sample_offset=first, observation_offset=chunk.first, **options)
            else:
                indices = (chunk.first, first)
                with torch_seeded(seed, *indices, device=x.device):
                    found = self.draw(x, count, number_of(seed, *indices) >> 1, **options)
            return checked_log_weights("draw", found, count, x)

        return log_weights


def checked_log_weights(name: str, found: Any, count: int, x: Tensor) -> Tensor:
    """Return what a function of the user has returned, if it is log-weights or log-densities (k, B).

    Args:
        name: the name of the function in errors.
        found: the result.
        count: k.
        x: the observations.

    Raises:
        TypeError, ValueError: the result is something else.
    """
    wanted = (count, len(x))
    expected = f"{name} must return (k, B) = {wanted}"
    if not isinstance(found, Tensor):
        raise TypeError(f"{expected}, a tensor, got {type(found).__name__}")
    if found.shape != wanted:
        turned = ": the samples are the first axis" if found.shape == wanted[::-1] else ""
        raise ValueError(f"{expected}, got {tuple(found.shape)}{turned}")
    if found.dtype not in checks.WIDE:
        raise TypeError(
            f"{expected} of float32 or float64, got {found.dtype}: compute and sum the densities in float32"
        )
    if found.device != x.device:
        raise ValueError(f"{expected} on the device of x, {x.device}, got {found.device}")
    if found.requires_grad:
        raise ValueError(f"{expected} without a graph, got a tensor that requires a gradient: return it.detach()")
    return found


def as_source(model: Any) -> Source:
    """Return the source of log-weights of a model of the package, of a function that draws them, or a source unchanged.

    Raises TypeError for anything else.
    """
    if isinstance(model, Source):
        return model
    if isinstance(model, LatentVariableModel):
        return ModelSource(model)
    if callable(model) and not isinstance(model, type | nn.Module):
        return FromDraws(model)
    raise TypeError(
        "model must be one of iwae_fast.models, such as VAE(...), or a function draw(x, num_samples, seed) that "
        f"returns log-weights (k, B), got {_told(model)} (for a model of the package, compile or wrap its networks; "
        "for another, give a method that draws log-weights, or iwae_fast.evaluate.FromDistributions)"
    )


def _told(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _arguments(function: Callable[..., Any]) -> Sequence[str]:
    """Return the names of a function's arguments, ``ANY_NAME`` if it takes others; none if they are not known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions of extensions have no signature
        return ()
    return tuple(ANY_NAME if each.kind is each.VAR_KEYWORD else each.name for each in parameters)
