"""Plain torch: a reparameterized sample, BCE with logits, logsumexp; directly and through torch.compile."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks import Encoder, Setting, networks, observations, parameters
from ..step import Step, minimise

Loss = Callable[[Encoder, nn.Module, Tensor, int], Tensor]


def log_weights(decoder: nn.Module, mean: Tensor, log_std: Tensor, x: Tensor, k: int) -> Tensor:
    """Compute log p(x, z) - log q(z | x), (k, B); the Gaussians' constants cancel, (z - mean) / std is the noise."""
    noise = torch.randn(k, *mean.shape, device=mean.device)
    z = mean + torch.exp(log_std) * noise
    logits = decoder(z)
    log_likelihood = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
    log_prior = -0.5 * z.square().sum(-1)
    log_posterior = -(0.5 * noise.square() + log_std).sum(-1)
    return log_likelihood + log_prior - log_posterior


def iwae_loss(encoder: Encoder, decoder: nn.Module, x: Tensor, k: int) -> Tensor:
    mean, log_std = encoder(x)
    return (math.log(k) - torch.logsumexp(log_weights(decoder, mean, log_std, x, k), 0)).mean()


def step(setting: Setting) -> Step:
    return step_of(iwae_loss, setting)


def compiled_step(setting: Setting) -> Step:
    return step_of(torch.compile(iwae_loss, dynamic=False), setting)


def replayed_step(setting: Setting) -> Step:
    """Forward and backward pass as CUDA graphs of torch.compile's own."""
    compiled = torch.compile(iwae_loss, dynamic=False, mode="reduce-overhead")

    def loss(encoder: Encoder, decoder: nn.Module, x: Tensor, k: int) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # what the last step returned may be overwritten
        return compiled(encoder, decoder, x, k)

    return step_of(loss, setting)


def step_of(loss: Loss, setting: Setting) -> Step:
    encoder, decoder = networks(setting)
    x = observations(setting)
    return minimise(lambda: loss(encoder, decoder, x, setting.k), parameters(encoder, decoder))
