"""Pyro: RenyiELBO with alpha = 0, which is the IWAE bound, with vectorized particles and without validation.

It is measured through SVI, as in the tutorials, and with torch's fused Adam over all parameters around
``loss_and_grads``, which is faster: SVI creates one optimizer per parameter. The loss is summed over the observations;
Adam is invariant to that factor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..networks import LEARNING_RATE, Setting, networks, observations, parameters, weight_matrices
from ..step import Step, adam

Program = Callable[[Tensor], None]


def step(setting: Setting) -> Step:
    x = observations(setting)
    model, guide, weights, bound = programs(setting)
    optimizer = adam(weights)

    def take() -> float:
        optimizer.zero_grad()
        loss = bound.loss_and_grads(model, guide, x)
        optimizer.step()
        return loss / setting.batch

    return Step(take, weight_matrices(weights), gradient_factor=setting.batch)


def svi_step(setting: Setting) -> Step:
    import pyro

    x = observations(setting)
    model, guide, weights, bound = programs(setting)
    optimizer = pyro.optim.PyroOptim(torch.optim.Adam, {"lr": LEARNING_RATE, "fused": True})  # what pyro.optim.Adam is
    svi = pyro.infer.SVI(model, guide, optimizer, bound)
    return Step(lambda: svi.step(x) / setting.batch, weight_matrices(weights), gradient_factor=setting.batch)


def programs(setting: Setting) -> tuple[Program, Program, list[torch.nn.Parameter], Any]:
    """Model, guide, their parameters and the bound."""
    import pyro
    import pyro.distributions as dist

    pyro.enable_validation(False)
    pyro.clear_param_store()
    encoder, decoder, _ = networks(setting)
    zeros, ones = torch.zeros(setting.latents), torch.ones(setting.latents)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("observations", setting.batch):
            z = pyro.sample("z", dist.Normal(zeros, ones).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("observations", setting.batch):
            mean, log_std = encoder(x)
            pyro.sample("z", dist.Normal(mean, log_std.exp()).to_event(1))

    bound = pyro.infer.RenyiELBO(alpha=0, num_particles=setting.k, max_plate_nesting=1, vectorize_particles=True)
    return model, guide, parameters(encoder, decoder), bound
