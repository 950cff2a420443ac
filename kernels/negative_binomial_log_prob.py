"""The log-probability of negative binomial counts and of their mixture with zero, summed over the last axis: the
formulas of csrc/math/negative_binomial.h, with its names, in float64 arithmetic for every dtype."""

from __future__ import annotations

import triton
import triton.language as tl

from .density import Density
from .float64_series import log_and_deviation, stirling_remainder, stirling_slope


@triton.jit
def limited(number, lowest):
    """Limit log m or log t to where m and t are normal numbers; NaN stays NaN."""
    number = tl.maximum(number, lowest, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(number, 700.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def product(y):
    return (1.0 - y) * (1.0 - 2.0 * y)


@triton.jit
def shared_parts(x, s, r):
    """Return m, t, n, 1 / T, t / T, the excess of the count, y_t, y_n, what the limits take from s and r, and the
    logarithm and deviation of theta."""
    theta = limited(r, -230.0)
    ratio = tl.minimum(s - tl.maximum(r, -1e6), 100.0, propagate_nan=tl.PropagateNan.ALL)
    s = tl.where(r < -230.0, tl.maximum(s, ratio - 230.0, propagate_nan=tl.PropagateNan.ALL), s)
    mean = limited(s, -700.0)
    m = tl.exp(mean)
    t = tl.exp(theta)
    n = x + t
    per_total = 1.0 / (t + m)
    share = t * per_total
    excess = (x - m) * share
    y_t = 1.0 / (t + 3.0)
    y_n = 1.0 / (n + 3.0)
    u = (excess - m * per_total * 3.0) * y_t
    log, deviation = log_and_deviation(u, t * ((n + 3.0) * per_total) * y_t)
    return m, t, n, per_total, share, excess, y_t, y_n, s - mean, r - theta, log, deviation


@triton.jit
def of_mean(m, n, per_total, share, excess, y_x):
    """Return the logarithm and deviation of the mean."""
    return log_and_deviation(-(excess + share * 3.0) * y_x, m * ((n + 3.0) * per_total) * y_x)


@triton.jit
def above_mean(excess, beyond_s, beyond_r):
    """Compute what s adds beyond its upper limit: so much that log p is -inf if r is beyond its own."""
    above = tl.minimum(tl.maximum(beyond_r, 0.0), 1e3)
    return tl.maximum(beyond_s, 0.0, propagate_nan=tl.PropagateNan.ALL) * excess * (above * 1e6 + 1.0)


@triton.jit
def both_terms(x, s, r, factor):
    """Return log p at x = 0, and log p + log(factor) for x > 0."""
    m, t, n, per_total, share, excess, y_t, y_n, beyond_s, beyond_r, log, deviation = shared_parts(x, s, r)
    y_x = 1.0 / (x + 3.0)
    _, deviation_of_mean = of_mean(m, n, per_total, share, excess, y_x)
    above = above_mean(excess, beyond_s, beyond_r)
    products = t * product(y_t) * product(y_x) * factor / (n * product(y_n))
    logs = tl.log(y_x * ((n + 3.0) * y_t) * products * products)
    remainders = stirling_remainder(y_n) - stirling_remainder(y_t) - stirling_remainder(y_x)
    linear = share * (m * y_x + x * y_t) * 3.0
    below = x * tl.minimum(beyond_s, 0.0) + tl.minimum(beyond_r, 0.0)
    counted = (logs * 0.5 + remainders + 2.08106146679532726 - linear) - (x * deviation_of_mean + t * deviation)
    return t * log + above, counted + (below + above)


@triton.jit
def digamma_less_log(y):
    """Compute log(z + 3) - digamma(z + 1), from y = 1 / (z + 3)."""
    near = 1.0 - 2.0 * y
    far = 1.0 - y
    return y * ((near + far) / (near * far) + 0.5 + y * stirling_slope(y))


@triton.jit
def slopes(x, s, r):
    """Return log p at x = 0, and d log p / d x, s and r."""
    m, t, n, per_total, share, excess, y_t, y_n, beyond_s, beyond_r, log, deviation = shared_parts(x, s, r)
    near = (1.0 - y_t) * (1.0 - y_n)
    far = (1.0 - 2.0 * y_t) * (1.0 - 2.0 * y_n)
    reciprocals = (near + far) / (near * far) + 0.5
    t_y = t * y_t
    counts = x / n + t_y * (x * y_n) * reciprocals - share * x * y_t * 3.0
    of_theta = counts + (t_y * y_t * stirling_slope(y_t) - t * y_n * y_n * stirling_slope(y_n)) - t * deviation
    y_x = 1.0 / (x + 3.0)
    log_of_mean, _ = of_mean(m, n, per_total, share, excess, y_x)
    of_count = log_of_mean + tl.minimum(beyond_s, 0.0) + digamma_less_log(y_x) - digamma_less_log(y_n) - 1.0 / n
    zero = t * log + above_mean(excess, beyond_s, beyond_r)
    return zero, of_count, excess, of_theta


@triton.jit
def accumulate(tiles, linear, factors):
    x = tiles[0].to(tl.float64)
    zero, counted = both_terms(x, tiles[1].to(tl.float64), tiles[2].to(tl.float64), 1.0)
    return linear + tl.where(x == 0.0, zero, counted).to(linear.dtype), factors


@triton.jit
def gradients(tiles):
    dtype: tl.constexpr = tiles[0].dtype
    _, of_count, of_mean, of_theta = slopes(tiles[0].to(tl.float64), tiles[1].to(tl.float64), tiles[2].to(tl.float64))
    return of_count.to(dtype), of_mean.to(dtype), of_theta.to(dtype)


NEGATIVE_BINOMIAL = Density(accumulate, gradients, neutral=(0.0, -32768.0, 0.0), is_long=True)


@triton.jit
def sigmoid(x, power):
    """Compute the sigmoid of x, given exp(-|x|)."""
    return tl.where(x >= 0.0, 1.0, power) / (1.0 + power)


@triton.jit
def inflated_accumulate(tiles, linear, factors):
    x = tiles[0].to(tl.float64)
    given = tiles[3].to(tl.float64)
    logits = tl.minimum(
        tl.maximum(given, -1e30, propagate_nan=tl.PropagateNan.ALL), 1e30, propagate_nan=tl.PropagateNan.ALL
    )
    power = tl.exp(-tl.abs(logits))
    per = 1.0 / (1.0 + power)
    zero, counted = both_terms(x, tiles[1].to(tl.float64), tiles[2].to(tl.float64), per)
    other = tl.exp(-tl.abs(logits - zero))
    log, _ = log_and_deviation((other - power) * per, (1.0 + other) * per)
    inflated = tl.maximum(logits, zero) - tl.maximum(logits, 0.0) + log
    counted -= tl.maximum(given, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return linear + tl.where(x == 0.0, inflated, counted).to(linear.dtype), factors


@triton.jit
def inflated_gradients(tiles):
    dtype: tl.constexpr = tiles[0].dtype
    x = tiles[0].to(tl.float64)
    logits = tl.minimum(
        tl.maximum(tiles[3].to(tl.float64), -1e30, propagate_nan=tl.PropagateNan.ALL),
        1e30,
        propagate_nan=tl.PropagateNan.ALL,
    )
    zero, of_count, of_mean, of_theta = slopes(x, tiles[1].to(tl.float64), tiles[2].to(tl.float64))
    was_counted = sigmoid(zero - logits, tl.exp(-tl.abs(logits - zero)))
    counted = tl.where(x == 0.0, was_counted, 1.0)
    of_logits = (1.0 - counted) - sigmoid(logits, tl.exp(-tl.abs(logits)))
    return (
        (counted * of_count).to(dtype),
        (counted * of_mean).to(dtype),
        (counted * of_theta).to(dtype),
        of_logits.to(dtype),
    )


ZERO_INFLATED_NEGATIVE_BINOMIAL = Density(
    inflated_accumulate, inflated_gradients, neutral=(0.0, -32768.0, 0.0, 0.0), is_long=True
)
