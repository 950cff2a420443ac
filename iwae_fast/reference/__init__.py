"""The reference implementation of every op in plain torch, against which all backends are tested.

It uses ordinary differentiable torch operations only, so that autograd, ``torch.func``, ``torch.compile``, second
derivatives and all devices work. Half-precision inputs are widened to float32 first; float64 stays float64. Arguments
are not checked here: the public functions in :mod:`iwae_fast.ops` check them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import accumulation_dtype
from .negative_binomial import count_log_prob, zero_inflated_log_prob
from .stopping import stopping

LOG_2PI = math.log(2.0 * math.pi)


def widen(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Convert tensors to the dtype in which sums are accumulated: float64 if any is float64, otherwise float32."""
    dtype = accumulation_dtype(*tensors)
    return tuple(t.to(dtype) for t in tensors)


# --- densities ------------------------------------------------------------------------------------------------


def gaussian_log_prob(value: Tensor, mean: Tensor, log_std: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute -1/2 sum_d [((v - m) / s)^2 + 2 log s + log 2 pi]."""
    value, mean, log_std = widen(value, mean, log_std)
    if mask is not None:
        # Masked entries are replaced before any arithmetic: a NaN times zero would still be NaN.
        value, mean, log_std = (torch.where(mask, t, 0.0) for t in (value, mean, log_std))

    def density(value: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        standardized = over_std(value - mean, log_std)
        return _sum_observed(-0.5 * (standardized.square() + 2.0 * log_std + LOG_2PI), mask)

    return stopping(density, value, mean, log_std)


def over_std(difference: Tensor, log_std: Tensor) -> Tensor:
    """Compute difference / exp(log_std), for log_std of any size.

    The difference is multiplied by exp(-log_std / 2) twice, since 1 / s may overflow where the result does not. A
    difference of zero gives zero at every scale, with gradients of zero instead of 0 * inf = NaN.
    """
    # Below this limit the square of any nonzero difference overflows. Clamping log_std itself would zero its gradient.
    least = -150.0 if log_std.dtype == torch.float32 else -1100.0
    finite = torch.where(log_std.isinf(), 0.0, log_std)
    root = torch.exp(-0.5 * (log_std.detach().clamp(min=least) + (finite - finite.detach())))
    return difference * root * root


def standard_gaussian_log_prob(value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute -1/2 sum_d [v^2 + log 2 pi]."""
    (value,) = widen(value)
    if mask is not None:
        value = torch.where(mask, value, 0.0)
    return stopping(lambda value: _sum_observed(-0.5 * (value.square() + LOG_2PI), mask), value)


def bernoulli_log_prob(value: Tensor, logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute sum_d [v l - softplus(l)]."""
    value, logits = widen(value, logits)
    if mask is not None:
        value, logits = torch.where(mask, value, 0.0), torch.where(mask, logits, 0.0)

    def density(value: Tensor, logits: Tensor) -> Tensor:
        # softplus(l) = -logsigmoid(-l): torch's own softplus cuts off at l = 20.
        return _sum_observed(value * logits + F.logsigmoid(-logits), mask)

    return stopping(density, value, logits)


def negative_binomial_log_prob(
    value: Tensor, log_mean: Tensor, log_theta: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Compute sum_d [log Gamma(x + t) - log Gamma(t) - log x! + x log(m / (t + m)) + t log(t / (t + m))]."""
    return _sum_counts(count_log_prob, mask, value, log_mean, log_theta)


def zero_inflated_negative_binomial_log_prob(
    value: Tensor, log_mean: Tensor, log_theta: Tensor, dropout_logits: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Compute sum_d log[d 1(x = 0) + (1 - d) p(x)], with p a negative binomial and d = sigmoid(dropout_logits)."""
    return _sum_counts(zero_inflated_log_prob, mask, value, log_mean, log_theta, dropout_logits)


def _sum_counts(log_prob: Callable[..., Tensor], mask: Tensor | None, *tensors: Tensor) -> Tensor:
    """Sum the log-probabilities of counts, which are computed in float64, and round the sum."""
    dtype = accumulation_dtype(*tensors)
    if mask is not None:
        tensors = tuple(torch.where(mask, t, 0.0) for t in tensors)
    return _sum_observed(log_prob(*tensors), mask).to(dtype)


def linear_bernoulli_log_prob(
    value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Compute bernoulli_log_prob(value, hidden @ weight.T + bias)."""
    return bernoulli_log_prob(value, F.linear(hidden, weight, bias), mask)


def _sum_observed(terms: Tensor, mask: Tensor | None) -> Tensor:
    return (terms if mask is None else torch.where(mask, terms, 0.0)).sum(-1)


# --- importance weights ---------------------------------------------------------------------------------------


def log_mean_exp(log_weights: Tensor, dim: int = 0) -> Tensor:
    """Compute logsumexp(log_w) - log k; a column of all -inf gives -inf with zero gradient (torch gives NaN)."""
    (log_weights,) = widen(log_weights)
    return stopping(_log_mean_exp, log_weights.movedim(dim, -1))


def _log_mean_exp(log_weights: Tensor) -> Tensor:
    """Compute log_mean_exp over the last axis."""
    shift = log_weights.detach().amax(-1, keepdim=True)
    shift = torch.where(shift.isfinite(), shift, 0.0)
    total = torch.exp(log_weights - shift).sum(-1)
    empty = total == 0
    log_total = torch.log(torch.where(empty, 1.0, total)) + shift.squeeze(-1)
    return torch.where(empty, -math.inf, log_total) - math.log(log_weights.shape[-1])


def normalized_weights(log_weights: Tensor, dim: int = 0) -> Tensor:
    """Compute softmax(log_w); a column of all -inf gives weights of 0."""
    (log_weights,) = widen(log_weights)
    shift = log_weights.detach().amax(dim, keepdim=True)
    weights = torch.exp(log_weights - torch.where(shift.isfinite(), shift, 0.0))
    total = weights.sum(dim, keepdim=True)
    return weights / torch.where(total == 0, 1.0, total)


class ScaleFactors(NamedTuple):
    """The numbers that make a bound and the scales of an estimator from weights: see :func:`weight_scales`."""

    power: float = 1.0
    """p > 0; the bound is the mean over groups of log[mean of w^p] / p."""
    groups: int = 1
    """The number of groups, of consecutive samples each; it divides k."""
    linear: float = 1.0
    quadratic: float = 0.0
    """The encoder's scale is linear v + quadratic v^2, of a sample whose decoder's scale is v."""
    rounding: float = 0.0
    """The decoder's scale is at least this number times the encoder's, in absolute value."""

    @property
    def is_one(self) -> bool:
        """True if decoder and encoder have the same scales."""
        return self.linear == 1.0 and self.quadratic == 0.0


def log_weights_of(terms: Sequence[Tensor], kl_weight: float = 1.0) -> Tensor:
    """Compute log-weights from their terms: the first one, plus ``kl_weight`` times the sum of the others."""
    first, *others = widen(*terms)
    if not others:
        return first
    rest = sum(others[1:], others[0])
    return first + (rest if kl_weight == 1.0 else kl_weight * rest)


def loss_of(bound: Tensor, reduction: str) -> Tensor:
    """Return minus the bounds of the observations, or their mean or sum."""
    if reduction == "none":
        return -bound
    return -(bound.mean() if reduction == "mean" else bound.sum())


def share_of_loss(observations: int, reduction: str) -> float:
    """Return the derivative of a loss with respect to the bound of one of its observations."""
    return -1.0 / max(observations, 1) if reduction == "mean" else -1.0


def weight_scales(
    terms: Sequence[Tensor], kl_weight: float, factors: ScaleFactors, reduction: str
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Compute the loss, the bounds, the log-weights, and the scales of the samples' gradients of the loss.

    With v = softmax(p log w) within each group, times the derivative of the loss by the bound, the scales are those of
    the decoder, the encoder, and the encoder's divided by the decoder's; the decoder's alone if both are the same.
    """
    power, groups, linear, quadratic, rounding = factors
    log_weights = log_weights_of(terms, kl_weight)
    tempered = (power * log_weights).unflatten(0, (groups, -1))
    v = normalized_weights(tempered, 1).flatten(0, 1)
    bound = (log_mean_exp(tempered, 1) / power).mean(0)
    share = share_of_loss(bound.numel(), reduction) / groups
    slope = linear + quadratic * v
    raised = (rounding * slope.abs()).clamp(min=1.0)
    scales = [share * v * raised, share * v * slope, slope / raised]
    return loss_of(bound, reduction), bound, log_weights, scales[:1] if factors.is_one else scales


def effective_sample_size(log_weights: Tensor, dim: int = 0) -> Tensor:
    """Compute 1 / sum w~^2; a column of all -inf gives 0."""
    return effective_sample_size_of_weights(normalized_weights(log_weights, dim), dim)


def effective_sample_size_of_weights(weights: Tensor, dim: int = 0) -> Tensor:
    """Compute 1 / sum w~^2 from normalized weights; a column of zeros gives 0."""
    square = weights.square().sum(dim)
    empty = square == 0
    return torch.where(empty, 0.0, 1.0 / torch.where(empty, 1.0, square))


# --- fused losses, per observation ------------------------------------------------------------------------------


DENSITIES: dict[str, Callable[..., Tensor]] = {
    "gaussian": gaussian_log_prob,
    "standard_gaussian": standard_gaussian_log_prob,
    "bernoulli": bernoulli_log_prob,
    "negative_binomial": negative_binomial_log_prob,
    "zero_inflated_negative_binomial": zero_inflated_negative_binomial_log_prob,
}
"""The densities by name. Their parameters, but for the mask, are those of the ops and backends, in this order."""


def iwae_loss(density: str, parameters: Iterable[Tensor], log_ratio: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute -log_mean_exp over samples of log p(x | z) + [log p(z) - log q(z | x)], with a density as p(x | z)."""
    *parameters, log_ratio = widen(*parameters, log_ratio)
    return -log_mean_exp(DENSITIES[density](*parameters, mask) + log_ratio)


# --- noise as a function of (seed, index) -----------------------------------------------------------------------

PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Compute four random words from four 32-bit words of counter and two of key: Philox4x32-10 (Salmon et al. 2011).

    Words are int64 tensors holding 0 .. 2^32 - 1.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = PHILOX_MULTIPLIERS[0] * c0, PHILOX_MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) & WORD ^ c1 ^ k0,
            product1 & WORD,
            (product0 >> 32) & WORD ^ c3 ^ k1,
            product0 & WORD,
        )
        k0, k1 = (k0 + PHILOX_KEY_STEPS[0]) & WORD, (k1 + PHILOX_KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


def standard_normal(
    seed: Tensor,
    shape: tuple[int, int, int],
    sample_offset: int = 0,
    observation_offset: int = 0,
    stream: int = 0,
    dtype: torch.dtype = torch.float32,
    samples: Tensor | None = None,
) -> Tensor:
    """Draw standard normal noise (samples, observations, dimensions), each entry a function of seed and indices alone.

    The counter is (dimension // 4, observation, sample, stream) and the key is the seed, so chunks and shards of
    a larger array contain the same numbers. The index of the sample is counted from ``sample_offset``, or read from
    ``samples`` (samples, observations). Box-Muller uses u = ((bits >> 9) + 1/2) 2^-23, exact in float32, and is
    evaluated here in float64.
    """
    count, observations, dimensions = shape
    device = seed.device
    block = torch.arange(-(-dimensions // 4), device=device)
    observation = torch.arange(observations, device=device) + observation_offset
    if samples is None:
        samples = (torch.arange(count, device=device) + sample_offset)[:, None]
    counter = torch.broadcast_tensors(
        block[None, None, :], observation[None, :, None], samples[:, :, None], torch.full_like(block, stream)
    )
    words = philox(counter, (seed & WORD, (seed >> 32) & WORD))
    u0, u1, u2, u3 = (((word >> 9).double() + 0.5) * 2.0**-23 for word in words)
    normals = []
    for radius, angle in ((u0, u1), (u2, u3)):
        r, theta = torch.sqrt(-2.0 * torch.log(radius)), 2.0 * math.pi * angle
        normals += [r * torch.cos(theta), r * torch.sin(theta)]
    return torch.stack(normals, dim=-1).flatten(-2)[..., :dimensions].to(dtype)


def sample_gaussian(
    mean: Tensor,
    log_std: Tensor,
    num_samples: int,
    seed: Tensor,
    sample_offset: int = 0,
    observation_offset: int = 0,
    stream: int = 0,
    path_only: bool = False,
    samples: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute z = m + s eps and the log-ratio 1/2 sum_d [eps^2 - z^2 + 2 log s]."""
    mean, log_std = widen(mean, log_std)
    shape = (num_samples, mean.shape[0], mean.shape[1])
    noise = standard_normal(seed, shape, sample_offset, observation_offset, stream, mean.dtype, samples)
    z = stopping(lambda mean, log_std: torch.addcmul(mean, torch.exp(log_std), noise), mean.expand(shape), log_std)

    def log_ratio(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        if not path_only:
            return 0.5 * (noise.square() - z.square()).sum(-1) + log_std.sum(-1)
        # eps = (z - m) / s as a function of z alone, with q's parameters held fixed. Written in m and log s, since
        # 1 / s times s eps may be inf * 0.
        fixed = log_std.detach()
        moved = over_std(mean - mean.detach(), fixed) + noise * torch.expm1(log_std - fixed)
        eps = noise + torch.where(moved.isfinite(), moved, 0.0)
        return 0.5 * (eps.square() - z.square()).sum(-1) + fixed.sum(-1)

    return z, stopping(log_ratio, z, mean.expand(shape), log_std)
