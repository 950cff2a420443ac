"""torch.distributions without argument validation, as written for readability."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from ..networks import Setting
from ..step import Step
from .eager import step_of


def iwae_loss(encoder: nn.Module, decoder: nn.Module, x: Tensor, k: int) -> Tensor:
    mean, log_std = encoder(x)
    posterior = independent(Normal(mean, log_std.exp(), validate_args=False))
    prior = independent(Normal(torch.zeros_like(mean), torch.ones_like(mean), validate_args=False))
    z = posterior.rsample(torch.Size([k]))
    likelihood = independent(Bernoulli(logits=decoder(z), validate_args=False))
    log_weights = likelihood.log_prob(x) + prior.log_prob(z) - posterior.log_prob(z)
    return (math.log(k) - torch.logsumexp(log_weights, 0)).mean()


def independent(distribution: Distribution) -> Distribution:
    return Independent(distribution, 1, validate_args=False)


def step(setting: Setting) -> Step:
    return step_of(iwae_loss, setting)
