"""Signal-to-noise ratios of stochastic gradients, and the statistics shared with :mod:`.check_estimator`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import checks
from ..models import LatentVariableModel
from ..objectives.objective import Objective
from ..ops.samples import seed_number

ROUNDING = 64
"""The rounding error allowed in a mean difference, in units in the last place of a gradient of typical size."""


class SignalToNoise(NamedTuple):
    """The ratio of a stochastic gradient's mean to its standard deviation, in a group of parameters."""

    median: float
    """The median of |mean| / std over the parameters whose std is not 0 (the lower of two middle values); NaN if there
    are none. Without any signal it is about 0.7 / sqrt(n) for n draws."""
    mean: float
    """The mean of |mean| / std over the same parameters; without any signal about 0.8 / sqrt(n)."""
    overall: float
    """||mean|| / sqrt(sum of variances) over all parameters, corrected for the noise of n draws: 0 if the mean is
    within that noise, inf if the gradient is the same in every draw, NaN if it is always 0."""


def gradient_snr(
    objective: Objective,
    model: LatentVariableModel,
    x: Tensor,
    num_draws: int = 100,
    *,
    context: Sequence[Tensor] = (),
    mask: Tensor | None = None,
    step: int | None = None,
    groups: Callable[[str], str] | None = None,
    seed: int | Tensor | None = None,
) -> dict[str, SignalToNoise]:
    """Estimate the signal-to-noise ratio of an objective's gradient: |mean| / std of each parameter over draws of the
    noise, at fixed parameters and data (Rainforth et al. 2018, "Tighter variational bounds are not necessarily
    better").

    A mean over n draws is itself noisy: the square of its norm is too large by the sum of variances / n on average. The
    overall ratio is corrected for this and clamped at 0. The ratios of single parameters are not corrected, as in the
    paper: for a single absolute value, no correction is right both with and without signal. Ratios close to 1 / sqrt(n)
    are not informative: use more draws, or the overall ratio.

    Variances are those of a single draw (n - 1 in the denominator). Sums are kept in float64; they need about twelve
    times the memory of float32 parameters, independent of the number of draws. ``.grad``, buffers and training mode are
    left unchanged; ``objective.last`` is that of the last draw. Noise that the model takes from torch's generator, such
    as Dropout's, counts as noise of the gradient and is not controlled by ``seed``.

    Args:
        objective: an :class:`iwae_fast.Objective` with reduction "mean" or "sum".
        model: the model passed to the objective; parameters that are frozen or not reached by the loss are left out.
        x: observations (B, ...).
        num_draws: n >= 2.
        context, mask, step: further arguments of the objective.
        groups: a function from a parameter's name, as in ``model.named_parameters()``, to the name of its group; by
            default the network: "encoder", "decoder", "upper.0.prior".
        seed: an int in [0, 2^63) that determines all draws; drawn from torch's generator if None.

    Returns:
        A :class:`SignalToNoise` (floats) per group, in the order of the model.

    Raises:
        TypeError: objective, model or the result of ``groups`` has the wrong type.
        ValueError: no parameter has a gradient, a gradient is not finite, reduction "none", too few draws.
    """
    check_objective(objective, "objective")
    seeds = draw_seeds(num_draws, 2, seed)
    parameters = Parameters(model, groups)
    moments = parameters.moments()
    with buffers_restored(model):
        for draw in seeds:
            loss = objective(model, x, context=context, mask=mask, step=step, seed=draw)
            moments.add(parameters.gradient(loss, draw))
    return {name: signal_to_noise(moments, part) for name, part in parameters.reached().items()}


def _network(name: str) -> str:
    """Return the name of a parameter's network: "encoder", "decoder", or one of an upper layer, "upper.0.prior"."""
    parts = name.split(".")
    return ".".join(parts[:3]) if parts[0] == "upper" else parts[0]


class Moments:
    """Entrywise mean and variance of a stream of vectors (Welford 1962)."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.count: int = 0
        self.mean: Tensor = torch.zeros(size, dtype=torch.float64, device=device)
        self.squares: Tensor = torch.zeros_like(self.mean)

    def add(self, vector: Tensor) -> None:
        self.count += 1
        off = vector - self.mean
        self.mean.add_(off, alpha=1.0 / self.count)
        self.squares.addcmul_(off, vector - self.mean)

    @property
    def variance(self) -> Tensor:
        return self.squares / (self.count - 1)


class Parameters:
    """The trainable parameters of a model as one vector, ordered by group."""

    def __init__(self, model: nn.Module, groups: Callable[[str], str] | None) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be one of iwae_fast.models, got {type(model).__name__}")
        members: dict[str, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.numel() > 0:
                group = _network(name) if groups is None else groups(name)
                if not isinstance(group, str):
                    raise TypeError(f"groups must return a str, got {type(group).__name__} for {name!r}")
                members.setdefault(group, []).append((name, parameter))
        if not members:
            raise ValueError("model has no trainable parameters: all are frozen, or there are none")
        self.groups: list[str] = [group for group, parts in members.items() for _ in parts]
        named = [part for parts in members.values() for part in parts]
        self.names: tuple[str, ...] = tuple(name for name, _ in named)
        self.parameters: tuple[nn.Parameter, ...] = tuple(parameter for _, parameter in named)
        self.device: torch.device = self.parameters[0].device
        self.with_gradient: set[str] = set()
        self.slices: dict[str, slice] = {}
        first = 0
        for group, parts in members.items():
            size = sum(parameter.numel() for _, parameter in parts)
            self.slices[group] = slice(first, first + size)
            first += size
        self.size = first

    def moments(self) -> Moments:
        return Moments(self.size, self.device)

    def gradient(self, loss: Tensor, seed: int) -> Tensor:
        """Compute the gradient of the loss of one draw, float64; 0 for parameters that the loss does not reach."""
        found: tuple[Tensor | None, ...] = (None,) * len(self.parameters)
        if loss.requires_grad:
            found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        parts = []
        for group, parameter, gradient in zip(self.groups, self.parameters, found, strict=True):
            if gradient is None:
                gradient = torch.zeros_like(parameter)
            else:
                self.with_gradient.add(group)
            parts.append(gradient.flatten().to(self.device, torch.float64))
        vector = torch.cat(parts)
        if not vector.isfinite().all():
            name = next(n for n, part in zip(self.names, parts, strict=True) if not part.isfinite().all())
            raise ValueError(f"the gradient of {name} is not finite in the draw with seed {seed}")
        return vector

    def reached(self) -> dict[str, slice]:
        """Return the slices of the groups that had a gradient; raise ValueError if there are none."""
        if not self.with_gradient:
            raise ValueError("model has no trainable parameters that the loss reaches")
        return {group: part for group, part in self.slices.items() if group in self.with_gradient}

    def rounding(self, *moments: Moments) -> Tensor:
        """Return the difference between mean gradients that rounding alone may cause, for each entry.

        It is relative to the entry and to the typical size in its group: an entry that is 0 except for rounding has the
        errors of the larger ones from which it is computed.
        """
        squares = torch.stack([each.mean.square() + each.variance for each in moments]).sum(0)
        units = torch.cat(
            [torch.full((p.numel(),), ROUNDING * torch.finfo(p.dtype).eps, device=self.device) for p in self.parameters]
        )
        typical = torch.cat([squares[part].mean().sqrt().expand_as(squares[part]) for part in self.slices.values()])
        return units * (squares.sqrt() + typical)


def norm_of_mean(moments: Moments, part: slice) -> float:
    """Return the norm of the mean, with the contribution of noise to its square subtracted."""
    square = moments.mean[part].square().sum() - moments.variance[part].sum() / moments.count
    return square.clamp(min=0.0).sqrt().item()


def ratio(signal: float, noise: float, at_zero: float) -> float:
    """Return signal / noise; for zero noise inf, or ``at_zero`` if the signal is zero too."""
    if noise > 0:
        return signal / noise
    return math.inf if signal > 0 else at_zero


def signal_to_noise(moments: Moments, part: slice) -> SignalToNoise:
    """Compute the ratios of one group of parameters."""
    mean, variance = moments.mean[part], moments.variance[part]
    varies = variance > 0
    ratios = mean[varies].abs() / variance[varies].sqrt()
    return SignalToNoise(
        median=ratios.median().item(),
        mean=ratios.mean().item(),
        overall=ratio(norm_of_mean(moments, part), variance.sum().sqrt().item(), at_zero=math.nan),
    )


def check_objective(objective: Objective, name: str) -> None:
    """Raise TypeError or ValueError unless the argument is an objective with a scalar loss."""
    if not callable(objective) or not hasattr(objective, "reduction"):
        raise TypeError(f"{name} must be an iwae_fast.Objective, got {type(objective).__name__}")
    if objective.reduction == "none":
        raise ValueError(f"{name} must have reduction 'mean' or 'sum' (a scalar loss), got 'none'")


def draw_seeds(num_draws: int, fewest: int, seed: int | Tensor | None) -> list[int]:
    """Return one seed per draw; raise ValueError for fewer than ``fewest`` draws."""
    if checks.positive("num_draws", num_draws) < fewest:
        raise ValueError(f"num_draws must be at least {fewest}, got {num_draws}")
    generator = torch.Generator().manual_seed(seed_number(seed))
    return torch.randint(2**63 - 1, (num_draws,), generator=generator).tolist()


@contextmanager
def buffers_restored(model: nn.Module) -> Iterator[None]:
    """Enable gradients, and restore the buffers at the end: BatchNorm in training mode would count draws as data."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.enable_grad():
            yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                # Only if it changed: a graph of the caller may have saved the buffer for its backward pass.
                if name in before and not torch.equal(buffer, before[name]):
                    buffer.copy_(before[name])
