"""A test of stochastic gradients for bias."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..models import LatentVariableModel
from ..objectives.objective import Objective
from .gradient_snr import (
    Parameters,
    SignalToNoise,
    buffers_restored,
    check_objective,
    draw_seeds,
    norm_of_mean,
    ratio,
    signal_to_noise,
)

FEWEST_DRAWS_TO_TEST = 30
"""The fewest draws for a test of bias: each half then has 15, enough for nearly normal means."""

DIRECTIONS = 2
"""The number of directions in which each group is tested."""

TINY = torch.finfo(torch.float64).tiny


class GroupCheck(NamedTuple):
    """The result of :func:`check_estimator` for one group of parameters."""

    p_value: float
    """The probability of a difference this large without bias, corrected for the number of tests (Bonferroni)."""
    relative_bias: float
    """||E difference|| / ||E reference||; inf if the reference's mean is within its noise. Without bias it is still
    above 0 about half of the time: it is meaningful only if p_value is small."""
    snr: SignalToNoise
    """The signal-to-noise ratio of the estimator."""
    reference_snr: SignalToNoise
    """The signal-to-noise ratio of the reference."""


@dataclass(frozen=True)
class EstimatorCheck:
    """The result of :func:`check_estimator`; ``str()`` formats it as a table."""

    groups: dict[str, GroupCheck]
    """One result per group of parameters, in the order of the model."""
    num_draws: int
    """The number of draws of each gradient."""

    def biased(self, level: float = 1e-3) -> tuple[str, ...]:
        """Return the groups in which bias was found.

        ``level`` is family-wise: without any bias, the probability that a group is returned is at most ``level``, as
        far as the assumptions of the t-tests hold.
        """
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
    seed: int | Tensor | None = None,
) -> EstimatorCheck:
    """Test an objective's gradient for bias against an unbiased reference, for a given model and batch.

    Both gradients are drawn with the same noise, and their difference is tested for a mean of 0. The first half of the
    draws chooses two directions for each group of parameters: the mean difference divided by the variances, for a bias
    shared by many parameters, and the parameter with the largest ratio of mean to standard deviation, for a bias in few
    parameters. The second half, which is independent of these choices, is projected on the directions and tested by
    one-sided t-tests (Student's distribution with n/2 - 1 degrees of freedom, exact for normal differences and
    otherwise by the central limit theorem). The smallest p-value is multiplied by the number of tests.

    A mean difference of up to 64 units in the last place of the parameters' dtype, at the size of the gradient, is
    attributed to rounding and ignored. Rounding under autocast is coarser than that and may be reported as bias.

    Power: a result without bias is not a proof. At the default level, a bias in a single parameter is mostly detected
    if it exceeds about 8 / sqrt(n) standard deviations of the paired difference, and a bias spread over P independent
    parameters if sum (bias / std)^2 exceeds about 10 sqrt(P) / n; correlated gradients count as few parameters. More
    draws, and more observations in x, detect smaller biases. A bias caused by rare draws only may be missed.

    False positives: if the differences have heavy tails (poor encoders, budgets, few observations), p-values are too
    small. For unbiased estimators on a single observation, selected in part for such tails, 4 of 600 checks with 200
    draws and 9 of 750 checks with 60 draws fell below 0.001. Repeat the check with another seed and more draws before
    relying on a detected bias.

    It needs about 30 times the memory of float32 parameters. See :func:`gradient_snr` for the state that is preserved.

    Args:
        objective: an :class:`iwae_fast.Objective` with reduction "mean" or "sum".
        model, x, context, mask, step, groups: as in :func:`gradient_snr`.
        num_draws: n >= 30; each draw computes one gradient of the objective and one of the reference.
        reference: an objective with an unbiased gradient and the same reduction. The default is "reparameterized" with
            the same bound and number of samples, over all samples at once. Estimators that follow a different
            objective, such as "rws", need a reference of their own, and so do models with latents that are not
            reparameterized.
        seed: an int in [0, 2^63) that determines all draws; drawn from torch's generator if None.

    Returns:
        An :class:`EstimatorCheck`.

    Raises:
        TypeError: as :func:`gradient_snr`.
        ValueError: as :func:`gradient_snr`, and if the reference has another reduction.
    """
    check_objective(objective, "objective")
    if reference is None:
        reference = _reparameterized(objective)
    check_objective(reference, "reference")
    if reference.reduction != objective.reduction:
        raise ValueError(
            f"reference must have the objective's reduction {objective.reduction!r}, got {reference.reduction!r}"
        )
    seeds = draw_seeds(num_draws, FEWEST_DRAWS_TO_TEST, seed)
    parameters = Parameters(model, groups)
    ours, theirs, differences = (parameters.moments() for _ in range(3))
    probes: dict[str, Probe] = {}
    with buffers_restored(model):
        for index, draw in enumerate(seeds):
            if index == num_draws // 2:
                rounding = parameters.rounding(ours, theirs)
                probes = {
                    name: Probe(differences.mean[part], differences.variance[part], rounding[part])
                    for name, part in parameters.slices.items()
                }
            our, their = (
                parameters.gradient(each(model, x, context=context, mask=mask, step=step, seed=draw), draw)
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
                relative_bias=ratio(norm_of_mean(differences, part), norm_of_mean(theirs, part), at_zero=0.0),
                snr=signal_to_noise(ours, part),
                reference_snr=signal_to_noise(theirs, part),
            )
            for name, part in reached.items()
        },
        num_draws=num_draws,
    )


def _reparameterized(objective: Objective) -> Objective:
    """Return an objective with the reparameterized gradient of the same bound, over all samples at once."""
    return Objective(
        objective.bound,
        "reparameterized",
        objective.num_samples,
        kl_weight=objective.kl_weight,
        free_bits=objective.free_bits,
        reduction=objective.reduction,
        dataset_size=objective.dataset_size,
    )


class Probe:
    """A one-sided t-test of a group's mean difference, in directions chosen by earlier draws."""

    def __init__(self, mean: Tensor, variance: Tensor, rounding: Tensor) -> None:
        mean = torch.where(mean.abs() > rounding, mean, 0.0)
        variance = (variance + rounding.square()).clamp(min=TINY)
        self.shared: Tensor = mean / variance
        self.peak: int = int((mean.abs() / variance.sqrt()).argmax())
        self.sign: Tensor = mean[self.peak].sign()
        self.rounding: Tensor = torch.stack([self.shared.abs() @ rounding, rounding[self.peak]])
        self.projected: list[Tensor] = []

    def add(self, difference: Tensor) -> None:
        self.projected.append(torch.stack([self.shared @ difference, self.sign * difference[self.peak]]))

    def p_value(self) -> float:
        """Return the smallest p-value over the directions, not corrected for the number of tests."""
        projected = torch.stack(self.projected)
        count = len(projected)
        mean = projected.mean(0) - self.rounding
        error = projected.std(0) / math.sqrt(count)
        return min(
            student_tail(m / e, count - 1) if e > 0 else float(m <= 0)
            for m, e in zip(mean.tolist(), error.tolist(), strict=True)
        )


def student_tail(t: float, degrees: int) -> float:
    """Compute P(T > t) of Student's t distribution with an integer number of degrees of freedom.

    It uses the finite series of Abramowitz & Stegun (1964), 26.7.3 and 26.7.4. The absolute error is about 1e-14, so
    smaller values are not meaningful beyond being near 0.
    """
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
