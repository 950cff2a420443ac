"""Log-probabilities of single features by their definitions, and means, in high-precision arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
from mpmath import mpf

Density = Callable[..., mpf]
DIGITS = 60


def bernoulli(x: mpf, logit: mpf) -> mpf:
    return x * logit - mpmath.log1p(mpmath.exp(logit))


def continuous_bernoulli(x: mpf, logit: mpf) -> mpf:
    return x * logit - (mpmath.log(mpmath.expm1(logit) / logit) if logit else 0)


def gaussian(x: mpf, mean: mpf, log_std: mpf) -> mpf:
    return -(((x - mean) / mpmath.exp(log_std)) ** 2) / 2 - log_std - mpmath.log(2 * mpmath.pi) / 2


def negative_binomial(x: mpf, log_mean: mpf, log_theta: mpf) -> mpf:
    mean, theta = mpmath.exp(log_mean), mpmath.exp(log_theta)
    ways = mpmath.loggamma(x + theta) - mpmath.loggamma(theta) - mpmath.loggamma(x + 1)
    return ways + (x * mpmath.log(mean / (theta + mean)) if x else 0) + theta * mpmath.log(theta / (theta + mean))


def zero_inflated(x: mpf, log_mean: mpf, log_theta: mpf, logit: mpf) -> mpf:
    dropout, counted = 1 / (1 + mpmath.exp(-logit)), 1 / (1 + mpmath.exp(logit))
    probability = mpmath.exp(negative_binomial(x, log_mean, log_theta))
    return mpmath.log((dropout if x == 0 else 0) + counted * probability)


def poisson(x: mpf, log_rate: mpf) -> mpf:
    return x * log_rate - mpmath.exp(log_rate) - mpmath.loggamma(x + 1)


def zero_inflated_poisson(x: mpf, log_rate: mpf, logit: mpf) -> mpf:
    dropout, counted = 1 / (1 + mpmath.exp(-logit)), 1 / (1 + mpmath.exp(logit))
    return mpmath.log((dropout if x == 0 else 0) + counted * mpmath.exp(poisson(x, log_rate)))


def student_t(x: mpf, mean: mpf, log_scale: mpf, log_df: mpf) -> mpf:
    df, standardized = mpmath.exp(log_df), (x - mean) / mpmath.exp(log_scale)
    ways = mpmath.loggamma((df + 1) / 2) - mpmath.loggamma(df / 2) - mpmath.log(df * mpmath.pi) / 2
    return ways - log_scale - (df + 1) / 2 * mpmath.log1p(standardized**2 / df)


def beta(x: mpf, logit: mpf, log_concentration: mpf) -> mpf:
    concentration = mpmath.exp(log_concentration)
    a, b = concentration / (1 + mpmath.exp(-logit)), concentration / (1 + mpmath.exp(logit))
    ways = mpmath.loggamma(a + b) - mpmath.loggamma(a) - mpmath.loggamma(b)
    return ways + (a - 1) * mpmath.log(x) + (b - 1) * mpmath.log1p(-x)


def discretized_logistic(x: mpf, mean: mpf, log_scale: mpf) -> mpf:
    """Compute the probability of one of 4 levels."""
    below, above = (((x + half) / 3 - mean) / mpmath.exp(log_scale) for half in (mpf(-1) / 2, mpf(1) / 2))
    if x == 0:
        return -mpmath.log1p(mpmath.exp(-above))
    if x == 3:
        return -mpmath.log1p(mpmath.exp(below))
    # sigmoid(u) - sigmoid(v) as one fraction: in float arithmetic of any width the difference would cancel.
    return (
        mpmath.log(mpmath.expm1(above - below))
        + below
        - mpmath.log1p(mpmath.exp(above))
        - mpmath.log1p(mpmath.exp(below))
    )


def categorical(x: mpf, *logits: mpf) -> mpf:
    return logits[int(x)] - mpmath.log(mpmath.fsum(map(mpmath.exp, logits)))


def continuous_bernoulli_mean(logit: mpf) -> mpf:
    if abs(logit) < 1e-8:
        return mpf(1) / 2 + logit / 12 - logit**3 / 720
    return 1 / -mpmath.expm1(-logit) - 1 / logit


def zero_inflated_mean(log_mean: mpf, _log_theta: mpf, logit: mpf) -> mpf:
    return mpmath.exp(log_mean) / (1 + mpmath.exp(logit))


def categorical_mean(*logits: mpf) -> mpf:
    heights = [mpmath.exp(logit) for logit in logits]
    return mpmath.fsum(i * height for i, height in enumerate(heights)) / mpmath.fsum(heights)


def value_and_gradient(function: Density, arguments: tuple[float, ...], first: int = 0) -> list[float]:
    """Compute a function of numbers and its derivatives with respect to all arguments after the ``first``."""
    largest = max(arguments[first:])
    # Enough digits for a negative binomial near its Poisson limit, with e^800 + 1 - e^800, and for logits of 10^4.
    with mpmath.workdps(DIGITS + (int(largest) if 0.0 < largest < 2000.0 else 0)):
        numbers = [mpf(a) for a in arguments]
        results = [function(*numbers)]
        for index in range(first, len(numbers)):

            def along(value: mpf, index: int = index) -> mpf:
                return function(*numbers[:index], value, *numbers[index + 1 :])

            results.append(mpmath.diff(along, numbers[index]))
        return [float(result) for result in results]
