"""pythae: its IWAE model with networks of the same sizes, in the body of the usual training loop.

As pythae requires, the decoder returns probabilities and the encoder the log-variance. The reported loss is not the
negated IWAE bound but the negated weighted mean of the log-weights, with the weights held fixed. Its gradient is that
of the bound; the loss is compared with the same quantity of the reference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..networks import Setting, networks, observations, parameters
from ..step import WEIGHTED, Step, minimise


def step(setting: Setting) -> Step:
    from pythae.models import IWAE, IWAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    modules: Any = networks(setting)
    encoder, decoder, _ = modules
    with torch.no_grad():  # log variance = 2 log standard deviation
        encoder.log_std.weight *= 2.0

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = encoder

        def forward(self, x: Tensor) -> Any:
            mean, log_variance = self.network(x)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(*decoder, nn.Sigmoid())

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.network(z))

    config = IWAEConfig(
        input_dim=(setting.features,),
        latent_dim=setting.latents,
        reconstruction_loss="bce",
        number_samples=setting.k,
    )
    model = IWAE(config, Encoder(), Decoder())
    batch = {"data": observations(setting)}
    return minimise(lambda: model(batch).loss, parameters(encoder, decoder), value=WEIGHTED)
