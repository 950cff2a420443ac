"""The last linear layer and its Bernoulli likelihood: torch's matrix products and the kernels of bernoulli_log_prob, a
tile of rows at a time."""

from __future__ import annotations

from functools import partial

from ..backends import linear
from .bernoulli_log_prob import bernoulli_log_prob, bernoulli_log_prob_backward

BERNOULLI = linear.Likelihood(bernoulli_log_prob, bernoulli_log_prob_backward)

linear_bernoulli_log_prob = partial(linear.log_prob, BERNOULLI)
linear_bernoulli_log_prob_backward = partial(linear.log_prob_backward, BERNOULLI)
