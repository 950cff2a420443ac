"""Pyro: RenyiELBO with alpha = 0 is the IWAE bound; its particles vectorised, validation off, through SVI.

SVI's loss is summed over the observations, which Adam does not see.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..networks import LEARNING_RATE, Setting, networks, observations, parameters, weight_matrices
from ..step import Step


def step(setting: Setting) -> Step:
    import pyro
    import pyro.distributions as dist
    from pyro.infer import SVI, RenyiELBO

    pyro.enable_validation(False)
    pyro.clear_param_store()
    encoder, decoder = networks(setting)
    x = observations(setting)
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

    bound = RenyiELBO(alpha=0, num_particles=setting.k, max_plate_nesting=1, vectorize_particles=True)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": LEARNING_RATE, "fused": True}), bound)
    weights = weight_matrices(parameters(encoder, decoder))
    return Step(lambda: svi.step(x) / setting.batch, weights, gradient_factor=setting.batch)
