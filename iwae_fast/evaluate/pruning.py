"""A trained network without some of its latent units, by surgery on its weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..models import DenseVAE, LatentVariableModel, MixturePrior, VampPrior
from ..models.dense import DenseDecoder, DenseDecoderOfSeveral, GaussianNetwork, TanhLayer
from ..models.vae import UpperLayer

KNOWN = (
    *(GaussianNetwork, DenseDecoder, DenseDecoderOfSeveral, UpperLayer, TanhLayer),
    *(nn.Linear, nn.Sequential, nn.ModuleList, nn.ModuleDict),
)
"""The modules that a dense model is made of."""


def obstacle(model: LatentVariableModel) -> str | None:
    """Why units of this model cannot be switched off; None where they can."""
    if not isinstance(model, DenseVAE):
        return f"the networks of a {type(model).__name__} are not known"
    for network in (model.encoder, model.decoder, model.upper):
        for name, module in network.named_modules():
            if type(module) not in KNOWN or "forward" in vars(module):
                return f"what {name or 'a network'}, a {type(module).__name__}, makes of a unit is not known"
            if isinstance(module, nn.Linear) and module._parameters.get("weight") is None:
                return f"the weight of {name}, a {type(module).__name__}, is computed from others"
    if not isinstance(model.prior, MixturePrior | VampPrior | None):
        return f"what its prior, a {type(model.prior).__name__}, makes of a unit is not known"
    return None


@torch.no_grad()
def without_units(model: DenseVAE, kept: Sequence[Tensor]) -> DenseVAE:
    """A copy of the model in which all latent units but the kept ones are switched off.

    A unit is switched off in two steps. The columns by which any network sees it become 0: those of the decoder or of
    the prior of the layer below, and of the encoder of the layer above. And its rows and biases in the heads that give
    its mean and log standard deviation become 0, so that both q and p of it are N(0, 1) whatever the observation: it
    adds log p - log q = 0 to every log-weight (in one layer exactly, in several to rounding). The log-weights are those
    of a model that was built without it, on the same noise of the kept units. A mixture prior of the topmost layer has
    N(0, 1) for the unit in all of its components; a VampPrior has it from the encoder.

    Args:
        model: left as it is.
        kept: bool (Z_l,) for each layer, the one nearest to the data first; True for units that stay.

    Raises TypeError for what :func:`obstacle` names, and for masks that are not bool; ValueError for masks of other
    shapes.
    """
    if (reason := obstacle(model)) is not None:
        raise TypeError(f"units of the model cannot be switched off: {reason}")
    model = copy.deepcopy(model)
    upper = [cast(UpperLayer, layer) for layer in model.upper]
    # By layer of z: the head networks of its q, of its p (the topmost has none), and what sees it from below and above.
    posteriors = [model.encoder, *(layer.encoder for layer in upper)]
    priors = [*(layer.prior for layer in upper), None]
    seen_below = [model.decoder, *(layer.prior for layer in upper)]
    seen_above = [*(layer.encoder for layer in upper), None]
    if len(kept) != len(posteriors):
        raise ValueError(f"kept must have a mask for each of {len(posteriors)} layers, got {len(kept)}")
    for index, mask in enumerate(kept):
        posterior, prior = cast(GaussianNetwork, posteriors[index]), cast("GaussianNetwork | None", priors[index])
        off = ~_checked(mask, index, posterior.mean.out_features).to(posterior.mean.weight.device)
        for heads in (posterior, prior):
            if heads is not None:
                _make_standard_normal(heads, off)
        for network in (seen_below[index], seen_above[index]):
            for layer in _first_layers(network):
                layer.weight[:, off] = 0.0
    if isinstance(model.prior, MixturePrior):
        model.prior.mean[:, off] = 0.0  # of the topmost layer, the last of the loop
        model.prior.log_std[:, off] = 0.0
    return model


def _checked(mask: Tensor, index: int, size: int) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"kept[{index}] must be a bool tensor, got {getattr(mask, 'dtype', type(mask).__name__)}")
    if mask.shape != (size,):
        raise ValueError(f"kept[{index}] must be ({size},), got {tuple(mask.shape)}")
    return mask


def _make_standard_normal(network: GaussianNetwork, units: Tensor) -> None:
    for head in (network.mean, network.log_std):
        head.weight[units] = 0.0
        head.bias[units] = 0.0


def _first_layers(network: nn.Module | None) -> list[nn.Linear]:
    """The linear layers that see the network's input: its first hidden one, or its heads where it has none."""
    if network is None:
        return []
    hidden = [module for module in cast(nn.Sequential, network.hidden) if isinstance(module, nn.Linear)]
    return hidden[:1] or [module for module in network.modules() if isinstance(module, nn.Linear)]
