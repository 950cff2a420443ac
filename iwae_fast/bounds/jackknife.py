"""Jackknife variational inference: combinations of IWAE bounds over subsets of the samples, with reduced bias.

Order 1 is in ``first_order.py``, optimized for speed. Order 2 runs in float64, since its coefficients, of size k^2,
cancel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks, reference
from ..backends.marshal import refusal
from ..ops.function import applied
from ..ops.weights import log_mean_exp
from .base import Bound, Coefficients, is_zero, stopped_at_zero, widened, without_graph
from .first_order import FirstOrder, Parts, derivatives_of, parts_of, value_of
from .leave_one_out import largest_of, log_rest, log_sum_exp
from .power import IWAE

MOST_ORDER = 2


class JVI(Bound):
    """The jackknife bound sum_j c_j * (mean of IWAE over all subsets of k - j samples), j = 0 .. m (Nowozin 2018).

    c_j = (-1)^j (k - j)^m / ((m - j)! j!). Its bias falls as k^-(m + 1), but it is not a lower bound: its expectation
    diverges as q widens, so the encoder maximizes IWAE instead. The cost is O(k) for m = 1 and O(k^2) for m = 2;
    higher orders have a variance that grows faster than their bias falls, and are not offered.

    Args:
        order: m, 1 or 2. k must be greater than m, otherwise calls raise ValueError.
    """

    def __init__(self, order: int = 1) -> None:
        self.order: int = checks.positive("order", order)
        if order > MOST_ORDER:
            raise ValueError(f"order must be 1 or {MOST_ORDER}, got {order}")

    @property
    def for_encoder(self) -> Bound:
        return IWAE()

    def __call__(self, log_weights: Tensor) -> Tensor:
        log_weights = self._checked(log_weights)
        if self.order == 1:
            if refusal((log_weights,)) is not None:
                return value_of(parts_of(log_weights))
            return applied(FirstOrder)(log_weights)[0]
        log_weights = stopped_at_zero(log_weights)
        infinite, limit = self._limit(log_weights)
        return torch.where(infinite, limit, self._value(torch.where(infinite, 0.0, log_weights)))

    @without_graph
    def coefficients(self, log_weights: Tensor) -> Coefficients:
        log_weights = self._checked(log_weights)
        if self.order == 1:
            value, *parts = FirstOrder.forward(log_weights)
            return Coefficients(value, *derivatives_of(Parts(*parts)))
        infinite, limit = self._limit(log_weights)
        value, g, D = self._coefficients(torch.where(infinite, 0.0, log_weights))
        stopped = infinite | is_zero(log_weights)
        return Coefficients(
            torch.where(infinite, limit, value), g.masked_fill(stopped, 0.0), D.masked_fill(stopped, 0.0)
        )

    @without_graph
    def _limit(self, log_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return a mask of the columns with at most m nonzero weights, and the value of the bound there.

        In such columns some subsets have total weight 0. The value is -inf times the sum of their coefficients, and the
        gradient is zero.
        """
        k, m = len(log_weights), self.order
        count = (~is_zero(log_weights)).sum(0)
        limit = torch.full_like(log_weights[0], -math.inf)
        for n in range(1, m + 1):
            empty_sum = sum(_coefficient(k, m, j) * math.comb(k - n, j - n) / math.comb(k, j) for j in range(n, m + 1))
            limit = torch.where(count == n, -math.inf * empty_sum, limit)
        return count <= m, limit

    def _value(self, log_weights: Tensor) -> Tensor:
        widest, k = log_weights.double(), len(log_weights)
        value = k**2 / 2 * log_mean_exp(widest) - (k - 1) ** 2 * _without_one(widest).mean(0)
        return (value + (k - 2) ** 2 / 2 * _without_two(widest)).to(log_weights.dtype)

    def _coefficients(self, log_weights: Tensor) -> Coefficients:
        widest, k = log_weights.double(), len(log_weights)
        w = reference.normalized_weights(widest)
        ones, ones_squared = _shares_without_one(widest)
        twos, twos_squared = _shares_without_two(widest)
        c, c1, c2 = k**2 / 2, (k - 1) ** 2 / k, (k - 2) ** 2 / (k * (k - 1))
        g = c * w - c1 * ones + c2 * twos
        D = c * w * (1.0 - w) - c1 * (ones - ones_squared) + c2 * (twos - twos_squared)
        return Coefficients(self._value(log_weights), g.to(log_weights.dtype), D.to(log_weights.dtype))

    def _checked(self, log_weights: Tensor) -> Tensor:
        log_weights = widened(log_weights)
        if len(log_weights) <= self.order:
            raise ValueError(f"JVI({self.order}) needs k > {self.order} samples, got k = {len(log_weights)}")
        return log_weights

    def _settings(self) -> tuple[object, ...]:
        return (self.order,)


def _coefficient(k: int, order: int, j: int) -> float:
    """Return c_j, the coefficient of the mean over the subsets that leave out j samples."""
    return (-1) ** j * (k - j) ** order / (math.factorial(order - j) * math.factorial(j))


def _without_one(log_weights: Tensor) -> Tensor:
    """Compute IWAE of all samples but i, for each i, shape (k, ...)."""
    k = len(log_weights)
    return log_rest(log_weights) + log_mean_exp(log_weights) - math.log1p(-1.0 / k)


def _without_two(log_weights: Tensor) -> Tensor:
    """Compute the mean of IWAE over all subsets that leave out two samples, shape (...)."""
    k = len(log_weights)
    largest = largest_of(log_weights)
    rest = torch.where(largest, -math.inf, log_weights)
    # Pairs with the largest sample: the remaining weight is that of the others without one of them.
    with_largest = torch.where(largest, 0.0, log_rest(rest)).sum(0) + (k - 1) * (
        log_sum_exp(rest) - log_sum_exp(log_weights)
    )
    # Pairs without it: their normalized weights add up to at most 2/3, so log1p is accurate.
    w = torch.exp(rest - log_sum_exp(log_weights))
    row, column = torch.triu_indices(k, k, 1, device=w.device)
    tame = ~largest[row] & ~largest[column]
    without_largest = torch.where(tame, torch.log1p(-torch.where(tame, w[row] + w[column], 0.0)), 0.0).sum(0)
    pairs = k * (k - 1) / 2
    return (with_largest + without_largest) / pairs + log_mean_exp(log_weights) - math.log1p(-2.0 / k)


def _shares_without_one(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Compute, for each i, the sums over a != i of w~_i / (1 - w~_a) and of its square.

    The summand is the normalized weight of i after sample a is left out.
    """
    largest = largest_of(log_weights)
    total = log_sum_exp(log_weights)
    w = torch.exp(log_weights - total)
    inverse = torch.where(largest, 0.0, 1.0 / (1.0 - torch.where(largest, 0.0, w)))
    without_largest = torch.exp(log_weights - log_sum_exp(torch.where(largest, -math.inf, log_weights)))
    without_largest = torch.where(largest, 0.0, without_largest)
    shares = w * (inverse.sum(0) - inverse) + without_largest
    squares = w.square() * (inverse.square().sum(0) - inverse.square()) + without_largest.square()
    return shares, squares


def _shares_without_two(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Compute, for each i, the sums over pairs a < b without i of w~_i / (1 - w~_a - w~_b) and of its square.

    The summand is the normalized weight of i after samples a and b are left out.
    """
    largest = largest_of(log_weights)
    rest = torch.where(largest, -math.inf, log_weights)
    # Pairs with the largest sample: weights among the others after one more is left out. The largest itself gets 0.
    shares, squares = (torch.where(largest, 0.0, s) for s in _shares_without_one(rest))
    # _shares_without_one also counted a = the largest, whose weight in `rest` is 0; that term is subtracted.
    u = torch.where(largest, 0.0, torch.exp(rest - log_sum_exp(rest)))
    shares, squares = shares - u, squares - u.square()
    w = torch.exp(log_weights - log_sum_exp(log_weights))
    tame = torch.where(largest, 0.0, w)
    inverse = 1.0 / (1.0 - tame[:, None] - tame[None, :])
    k = len(w)
    counted = ~(largest[:, None] | largest[None, :])
    counted = counted & ~torch.eye(k, dtype=torch.bool, device=w.device).reshape(k, k, *(1,) * (w.dim() - 1))
    inverse = torch.where(counted, inverse, 0.0)
    for power, result in ((1, shares), (2, squares)):
        terms = inverse**power
        containing = terms.sum(1)
        result += w**power * (containing.sum(0) / 2 - containing)
    return shares, squares
