"""The last linear layer and its Bernoulli likelihood: torch's matrix products and the kernels of bernoulli_log_prob, a
tile of rows at a time."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ..backends import linear
from .bernoulli_log_prob import bernoulli_log_prob, bernoulli_log_prob_backward


def _biased(value: Tensor, products: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
    return bernoulli_log_prob(value, products if bias is None else products.add_(bias), mask)


BERNOULLI = linear.Likelihood(_biased, bernoulli_log_prob_backward)

linear_bernoulli_log_prob = partial(linear.log_prob, BERNOULLI)
linear_bernoulli_log_prob_backward = partial(linear.log_prob_backward, BERNOULLI)
