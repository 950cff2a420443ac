"""Whether a stochastic gradient can be trusted: its signal against its noise, and its bias."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import checks
from ..models import LatentVariableModel
from ..objectives.objective import Objective
from ..ops.samples import seed_tensor

FEWEST_DRAWS_TO_TEST = 30
"""Of a test of bias: each half then has 15 draws, by which means come near a normal distribution."""

ROUNDING = 64
"""How many units in the last place of a gradient of typical size a mean difference may be off by rounding alone."""

DIRECTIONS = 2
"""In which a group is tested."""

TINY = torch.finfo(torch.float64).tiny


class SignalToNoise(NamedTuple):
    """Mean of a stochastic gradient against its standard deviation, in a group of parameters."""

    median: float
    """Of |mean| / std over the parameters whose std is not 0 (the lower of two); NaN where there is none. With n draws
    0.7 / sqrt(n) is what no signal at all shows."""
    mean: float
    """Of the same; 0.8 / sqrt(n) without signal."""
    overall: float
    """||mean|| / sqrt(sum of variances) over all parameters, corrected for the noise of n draws: 0 where the mean does
    not stand out of it, inf where the gradient never varies, NaN where it is 0."""


class GroupCheck(NamedTuple):
    """What :func:`check_estimator` found in a group of parameters."""

    p_value: float
    """How probable so large a difference would be without bias, corrected for the number of groups (Bonferroni)."""
    relative_bias: float
    """||E difference|| / ||E reference||; inf where the reference's mean does not stand out of its noise. Without bias
    it is above 0 about every other time: read it where p_value is small."""
    snr: SignalToNoise
    """Of the estimator."""
    reference_snr: SignalToNoise


@dataclass(frozen=True)
class EstimatorCheck:
    """What :func:`check_estimator` found; ``str()`` makes a table of it."""

    groups: dict[str, GroupCheck]
    num_draws: int

    def biased(self, level: float = 1e-3) -> tuple[str, ...]:
        """The groups in which bias was found, family-wise: without any bias there is one with probability ``level`` at
        most, as far as the t-tests hold."""
        return tuple(name for name, group in self.groups.items() if group.p_value < level)

    def __str__(self) -> str:
        width = max(5, *(len(name) for name in self.groups))
        lines = [f"{'group':{width}}  {'p-value':>8}  {'relative bias':>13}  {'SNR':>8}  {'reference SNR':>13}"]
        for name, (p_value, relative_bias, snr, reference) in self.groups.items():
            shown = f"{p_value:.2g}" if p_value > 1e-12 else "<1e-12"
            lines.append(
                f"{name:{width}}  {shown:>8}  {relative_bias:13.2g}  {snr.overall:8.3g}  {reference.overall:13.3g}"
            )
        biased = self.biased()
        verdict = f"bias found in {', '.join(biased)}" if biased else "no bias found"
        lines.append(f"{verdict} ({self.num_draws} draws, level 0.001)")
        return "\n".join(lines)


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
    seed: int | None = None,
) -> dict[str, SignalToNoise]:
    """The signal-to-noise ratio of an objective's gradient (Rainforth et al. 2018, "Tighter variational bounds are not
    necessarily better"): |mean| / std of each parameter over draws of the noise, at fixed parameters and data.

    A mean over n draws is itself noisy: the square of its norm is too large by the sum of variances / n on average,
    which the overall ratio is free of, clamped at 0. The ratios of single parameters are the plain ones, as in the
    paper: for a single absolute value no correction is right both with and without signal. Where they come near
    1 / sqrt(n) they say little: take more draws, or the overall ratio.

    Variances are those of a single draw (n - 1 in the denominator). Sums are kept in float64, in memory of about twelve
    times that of float32 parameters, whatever the number of draws. ``.grad``, buffers and training mode are left as
    they are; ``objective.last`` is that of the last draw. Noise that the model takes from torch's generator, such as
    Dropout's, counts as the gradient's, and no seed makes it again.

    Args:
        objective: an :class:`iwae_fast.Objective` of reduction "mean" or "sum".
        model: what it is called with; parameters that are frozen or that the loss does not reach are left out.
        x: observations (B, ...).
        num_draws: n >= 2.
        context, mask, step: further arguments of the objective.
        groups: the name of a parameter's group from the parameter's name, as in ``model.named_parameters()``; by
            default the network: "encoder", "decoder", "upper.0.prior".
        seed: an int in [0, 2^63) that all draws follow from; from torch's generator if None.

    Returns:
        A :class:`SignalToNoise` (floats) of each group, in the order of the model.

    Raises:
        ValueError: no parameter has a gradient, a gradient is not finite, reduction "none", too few draws.
    """
    _check(objective, "objective")
    seeds = _seeds(num_draws, 2, seed)
    parameters = _Parameters(model, groups)
    moments = parameters.moments()
    with _kept(model):
        for draw in seeds:
            loss = objective(model, x, *context, mask=mask, step=step, seed=draw)
            moments.add(parameters.gradient(loss, draw))
    return {name: _signal_to_noise(moments, part) for name, part in parameters.reached().items()}


def check_estimator(
    objective: Objective,
    model: LatentVariableModel,
    x: Tensor,
    num_draws: int = 200,
    *,
    context: Sequence[Tensor] = (),
    mask: Tensor | None = None,
    step: int | None = None,
    reference: Objective | None = None,
    groups: Callable[[str], str] | None = None,
    seed: int | None = None,
) -> EstimatorCheck:
    """Test the bias of an objective's gradient at this model and these data, against a reference that has none.

    Both gradients are drawn with the same noise, and their difference is tested for a mean of 0. The first half of the
    draws chooses two directions for each group of parameters: the mean difference divided by the variances, for a bias
    that many parameters share, and the parameter of the largest mean against its standard deviation, for a bias in
    few. The second half, which they are independent of, is projected on them and goes through one-sided t-tests
    (Student's distribution of n/2 - 1 degrees of freedom, exact for normal differences and otherwise by the central
    limit theorem). The smallest p-value is multiplied by the number of tests.

    A mean difference up to 64 units in the last place of the parameters' dtype, at the size of the gradient, is held to
    be rounding and counts as none. Under autocast rounding is coarser than that and may be found.

    What it can see: no finding is no proof. At the default level, a bias of a single parameter is mostly found from
    about 8 / sqrt(n) standard deviations of the paired difference on; one spread over P independent parameters from
    about sum (bias / std)^2 = 10 sqrt(P) / n on, where gradients that go together count as few. More draws, and more
    observations in x, find less. A bias that only rare draws contribute may be missed.

    What it may see wrongly: where differences have heavy tails (poor encoders, budgets, few observations) p-values come
    out too small. Of unbiased estimators on a single observation, chosen for such tails among others, 4 of 600 checks
    of 200 draws and 9 of 750 checks of 60 draws fell below 0.001. Repeat a finding with another seed and more draws.

    Memory is about 30 times that of float32 parameters; for the rest see :func:`gradient_snr`.

    Args:
        objective: an :class:`iwae_fast.Objective` of reduction "mean" or "sum".
        model, x, context, mask, step, groups: as in :func:`gradient_snr`.
        num_draws: n >= 30, each of one gradient of the objective and one of the reference.
        reference: an objective whose mean gradient is the right one, of the same reduction. By default
            "reparameterized" of the same bound and number of samples, over all samples at once. Estimators of another
            direction, such as "rws", need one of their own, and so do models that no gradient goes through.
        seed: an int in [0, 2^63) that all draws follow from; from torch's generator if None.

    Returns:
        An :class:`EstimatorCheck`.

    Raises:
        ValueError: as :func:`gradient_snr`, and for a reference of another reduction.
    """
    _check(objective, "objective")
    if reference is None:
        reference = _reparameterized(objective)
    _check(reference, "reference")
    if reference.reduction != objective.reduction:
        raise ValueError(
            f"reference must have the objective's reduction {objective.reduction!r}, got {reference.reduction!r}"
        )
    seeds = _seeds(num_draws, FEWEST_DRAWS_TO_TEST, seed)
    parameters = _Parameters(model, groups)
    ours, theirs, differences = (parameters.moments() for _ in range(3))
    probes: dict[str, Probe] = {}
    with _kept(model):
        for index, draw in enumerate(seeds):
            if index == num_draws // 2:
                rounding = parameters.rounding(ours, theirs)
                probes = {
                    name: Probe(differences.mean[part], differences.variance[part], rounding[part])
                    for name, part in parameters.slices.items()
                }
            our, their = (
                parameters.gradient(each(model, x, *context, mask=mask, step=step, seed=draw), draw)
                for each in (objective, reference)
            )
            difference = our - their
            for name, probe in probes.items():
                probe.add(difference[parameters.slices[name]])
            ours.add(our)
            theirs.add(their)
            differences.add(difference)
    reached = parameters.reached()
    tests = DIRECTIONS * len(reached)
    return EstimatorCheck(
        groups={
            name: GroupCheck(
                p_value=min(1.0, tests * probes[name].p_value()),
                relative_bias=_ratio(_norm(differences, part), _norm(theirs, part), at_zero=0.0),
                snr=_signal_to_noise(ours, part),
                reference_snr=_signal_to_noise(theirs, part),
            )
            for name, part in reached.items()
        },
        num_draws=num_draws,
    )


def _reparameterized(objective: Objective) -> Objective:
    """The gradient of the bound itself, over all samples at once."""
    return Objective(
        objective.bound,
        "reparameterized",
        objective.num_samples,
        kl_weight=objective.kl_weight,
        free_bits=objective.free_bits,
        reduction=objective.reduction,
        dataset_size=objective.dataset_size,
    )


def _network(name: str) -> str:
    """The network of a parameter: "encoder", "decoder", or one of an upper layer, "upper.0.prior"."""
    parts = name.split(".")
    return ".".join(parts[:3]) if parts[0] == "upper" else parts[0]


class _Moments:
    """Mean and variance of a stream of vectors, entry by entry (Welford 1962)."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.count = 0
        self.mean = torch.zeros(size, dtype=torch.float64, device=device)
        self.squares = torch.zeros_like(self.mean)

    def add(self, vector: Tensor) -> None:
        self.count += 1
        off = vector - self.mean
        self.mean.add_(off, alpha=1.0 / self.count)
        self.squares.addcmul_(off, vector - self.mean)

    @property
    def variance(self) -> Tensor:
        return self.squares / (self.count - 1)


class _Parameters:
    """The trainable parameters of a model as one vector, group after group."""

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
            raise ValueError("model has no trainable parameter: all are frozen, or there is none")
        self.groups = [group for group, parts in members.items() for _ in parts]
        self.names, self.parameters = zip(*(part for parts in members.values() for part in parts), strict=True)
        self.device = self.parameters[0].device
        self.with_gradient: set[str] = set()
        self.slices: dict[str, slice] = {}
        first = 0
        for group, parts in members.items():
            size = sum(parameter.numel() for _, parameter in parts)
            self.slices[group] = slice(first, first + size)
            first += size
        self.size = first

    def moments(self) -> _Moments:
        return _Moments(self.size, self.device)

    def gradient(self, loss: Tensor, seed: int) -> Tensor:
        """Of the loss of one draw, float64; 0 where it does not reach a parameter."""
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
            raise ValueError(f"the gradient of {name} is not finite in the draw of seed {seed}")
        return vector

    def reached(self) -> dict[str, slice]:
        """The groups that had a gradient."""
        if not self.with_gradient:
            raise ValueError("model has no trainable parameter that the loss reaches")
        return {group: part for group, part in self.slices.items() if group in self.with_gradient}

    def rounding(self, *moments: _Moments) -> Tensor:
        """By how much means of gradients may differ by rounding alone, for each entry: relative to itself, and to its
        group, since an entry that is 0 but for rounding has the errors of the larger ones it is computed from."""
        squares = torch.stack([each.mean.square() + each.variance for each in moments]).sum(0)
        units = torch.cat(
            [torch.full((p.numel(),), ROUNDING * torch.finfo(p.dtype).eps, device=self.device) for p in self.parameters]
        )
        typical = torch.cat([squares[part].mean().sqrt().expand_as(squares[part]) for part in self.slices.values()])
        return units * (squares.sqrt() + typical)


class Probe:
    """A one-sided t-test of a group's mean difference in the directions that the draws before it chose."""

    def __init__(self, mean: Tensor, variance: Tensor, rounding: Tensor) -> None:
        mean = torch.where(mean.abs() > rounding, mean, 0.0)
        variance = (variance + rounding.square()).clamp(min=TINY)
        self.shared = mean / variance
        self.peak = int((mean.abs() / variance.sqrt()).argmax())
        self.sign = mean[self.peak].sign()
        self.rounding = torch.stack([self.shared.abs() @ rounding, rounding[self.peak]])
        self.projected: list[Tensor] = []

    def add(self, difference: Tensor) -> None:
        self.projected.append(torch.stack([self.shared @ difference, self.sign * difference[self.peak]]))

    def p_value(self) -> float:
        """The smaller of the directions'."""
        projected = torch.stack(self.projected)
        count = len(projected)
        mean = projected.mean(0) - self.rounding
        error = projected.std(0) / math.sqrt(count)
        return min(
            student_tail(m / e, count - 1) if e > 0 else float(m <= 0)
            for m, e in zip(mean.tolist(), error.tolist(), strict=True)
        )


def student_tail(t: float, degrees: int) -> float:
    """P(T > t) of Student's t with a whole number of degrees of freedom, by the finite series of Abramowitz & Stegun
    (1964), 26.7.3 and 26.7.4. The absolute error is some 1e-14, so that values below it come out as anything near 0."""
    angle = math.atan2(t, math.sqrt(degrees))
    cosine, odd = math.cos(angle), degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for index in range(2 + odd, degrees + 1, 2):
        total += term
        term *= cosine * cosine * (index - 1) / index
    within = math.sin(angle) * total
    if odd:
        within = (angle + within) * 2.0 / math.pi
    return max(0.0, 0.5 * (1.0 - within))


def _norm(moments: _Moments, part: slice) -> float:
    """Of the mean, without what noise adds to its square."""
    square = moments.mean[part].square().sum() - moments.variance[part].sum() / moments.count
    return square.clamp(min=0.0).sqrt().item()


def _ratio(signal: float, noise: float, at_zero: float) -> float:
    if noise > 0:
        return signal / noise
    return math.inf if signal > 0 else at_zero


def _signal_to_noise(moments: _Moments, part: slice) -> SignalToNoise:
    mean, variance = moments.mean[part], moments.variance[part]
    varies = variance > 0
    ratios = mean[varies].abs() / variance[varies].sqrt()
    return SignalToNoise(
        median=ratios.median().item(),
        mean=ratios.mean().item(),
        overall=_ratio(_norm(moments, part), variance.sum().sqrt().item(), at_zero=math.nan),
    )


def _check(objective: Objective, name: str) -> None:
    if not callable(objective) or not hasattr(objective, "reduction"):
        raise TypeError(f"{name} must be an iwae_fast.Objective, got {type(objective).__name__}")
    if objective.reduction == "none":
        raise ValueError(f"{name} must have reduction 'mean' or 'sum', whose loss is a scalar, got 'none'")


def _seeds(num_draws: int, fewest: int, seed: int | None) -> list[int]:
    if checks.positive("num_draws", num_draws) < fewest:
        raise ValueError(f"num_draws must be at least {fewest}, got {num_draws}")
    generator = torch.Generator().manual_seed(int(seed_tensor(seed, torch.device("cpu"))))
    return torch.randint(2**63 - 1, (num_draws,), generator=generator).tolist()


@contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """With gradients, and the buffers put back: BatchNorm in training mode would count the draws as data."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.enable_grad():
            yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                # Only where it changed: a graph of the caller's may hold the buffer.
                if name in before and not torch.equal(buffer, before[name]):
                    buffer.copy_(before[name])
