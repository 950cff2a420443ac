"""The last linear layer and its Bernoulli likelihood: torch's matrix products and the kernels of bernoulli_log_prob, a
tile of rows at a time."""

from __future__ import annotations

from torch import Tensor

from ..backends import linear
from .bernoulli_log_prob import bernoulli_log_prob, bernoulli_log_prob_backward

BERNOULLI = linear.Likelihood(bernoulli_log_prob, bernoulli_log_prob_backward)


def linear_bernoulli_log_prob(
    value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
) -> Tensor:
    return linear.log_prob(BERNOULLI, value, hidden, weight, bias, mask)


def linear_bernoulli_log_prob_backward(
    grad: Tensor,
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    needs: list[bool],
) -> list[Tensor]:
    return linear.log_prob_backward(BERNOULLI, grad, value, hidden, weight, bias, mask, needs)
