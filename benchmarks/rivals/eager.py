"""Plain torch: a reparameterized sample, BCE with logits, logsumexp; directly and through torch.compile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks import Setting, networks, observations, parameters
from ..step import Step, minimise

Loss = Callable[[nn.Module, nn.Module, Tensor, int], Tensor]


def log_weights(
    decoder: nn.Module, mean: Tensor, log_std: Tensor, x: Tensor, k: int, upper: Iterable[Any] = ()
) -> Tensor:
    """Compute log p(x, z) - log q(z | x), (k, B); the Gaussians' constants cancel, (z - mean) / std is the noise.

    ``upper`` are the pairs of modules of further stochastic layers, as in :class:`benchmarks.networks.Networks`.
    """
    noise = torch.randn(k, *mean.shape, device=mean.device)
    z = mean + torch.exp(log_std) * noise
    logits = decoder(z)
    log_likelihood = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
    log_ratio = (0.5 * noise.square() + log_std).sum(-1)
    for layer_encoder, layer_prior in upper:
        mean, log_std = layer_encoder(z)
        noise = torch.randn_like(mean)
        above = mean + torch.exp(log_std) * noise
        log_ratio = log_ratio + (0.5 * noise.square() + log_std).sum(-1)
        mean, log_std = layer_prior(above)
        log_ratio = log_ratio - (0.5 * ((z - mean) * torch.exp(-log_std)).square() + log_std).sum(-1)
        z = above
    return log_likelihood + log_ratio - 0.5 * z.square().sum(-1)


def iwae_loss(encoder: nn.Module, decoder: nn.Module, x: Tensor, k: int, upper: Iterable[Any] = ()) -> Tensor:
    mean, log_std = encoder(x)
    return (math.log(k) - torch.logsumexp(log_weights(decoder, mean, log_std, x, k, upper), 0)).mean()


def step(setting: Setting) -> Step:
    return step_of(iwae_loss, setting)


def compiled_step(setting: Setting) -> Step:
    return step_of(torch.compile(iwae_loss, dynamic=False), setting)


def step_of(loss: Loss, setting: Setting) -> Step:
    encoder, decoder, _ = networks(setting)
    x = observations(setting)
    return minimise(lambda: loss(encoder, decoder, x, setting.k), parameters(encoder, decoder))
