"""Removal of latent units from a trained model by editing its weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..models import DenseVAE, LatentVariableModel, MixturePrior, VampPrior
from ..models.dense import DenseDecoder, DenseDecoderOfSeveral, DenseLayer, GaussianNetwork, TanhLayer
from ..models.vae import UpperLayer

KNOWN = (
    *(GaussianNetwork, DenseDecoder, DenseDecoderOfSeveral, UpperLayer, DenseLayer, TanhLayer),
    *(nn.Linear, nn.Sequential, nn.ModuleList, nn.ModuleDict),
)
"""The module types of a dense model."""


def obstacle(model: LatentVariableModel) -> str | None:
    """Return the reason why units of this model cannot be disabled, or None if they can."""
    if not isinstance(model, DenseVAE):
        return f"pruning supports DenseVAE only, not {type(model).__name__}"
    for network in (model.encoder, model.decoder, model.upper):
        for name, module in network.named_modules():
            if type(module) not in KNOWN or "forward" in vars(module):
                return f"the module {name or 'at the top of a network'} ({type(module).__name__}) is not supported"
            if isinstance(module, nn.Linear) and module._parameters.get("weight") is None:
                return f"the weight of {name} ({type(module).__name__}) is computed from other tensors"
    if not isinstance(model.prior, MixturePrior | VampPrior | None):
        return f"the prior {type(model.prior).__name__} is not supported"
    return None


@torch.no_grad()
def without_units(model: DenseVAE, kept: Sequence[Tensor]) -> DenseVAE:
    """Return a copy of the model in which all latent units except the kept ones are disabled.

    A unit is disabled in two steps. First, the weight columns that read it are set to 0: those of the decoder or of the
    prior of the layer below, and of the encoder of the layer above. Second, its rows and biases in the heads for mean
    and log standard deviation are set to 0, so that both its q and its p are N(0, 1) for every observation: it adds
    log p - log q = 0 to every log-weight (exactly with one layer, up to rounding with several). The log-weights equal
    those of a model built without the unit, for the same noise of the kept units. In a mixture prior of the topmost
    layer the unit is N(0, 1) in all components; in a VampPrior it is so through the encoder.

    Args:
        model: the model; it is not changed.
        kept: bool (Z_l,) per layer, the layer nearest to the data first; True for units that are kept.

    Returns:
        The copy.

    Raises:
        TypeError: :func:`obstacle` returns a reason, or a mask is not bool.
        ValueError: the number of masks or the shape of a mask is wrong.
    """
    if (reason := obstacle(model)) is not None:
        raise TypeError(f"units of the model cannot be disabled: {reason}")
    model = copy.deepcopy(model)
    upper = [cast(UpperLayer, layer) for layer in model.upper]
    # Per layer of z: the networks of its q and of its p (None for the topmost), and those that read it below and above.
    posteriors = [model.encoder, *(layer.encoder for layer in upper)]
    priors = [*(layer.prior for layer in upper), None]
    seen_below = [model.decoder, *(layer.prior for layer in upper)]
    seen_above = [*(layer.encoder for layer in upper), None]
    if len(kept) != len(posteriors):
        raise ValueError(f"kept must have {len(posteriors)} masks, one per layer, got {len(kept)}")
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
        model.prior.mean[:, off] = 0.0  # `off` is that of the topmost layer, the last of the loop
        model.prior.log_std[:, off] = 0.0
    return model


def _checked(mask: Tensor, index: int, size: int) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"kept[{index}] must be a bool tensor, got {getattr(mask, 'dtype', type(mask).__name__)}")
    if mask.shape != (size,):
        raise ValueError(f"kept[{index}] must have shape ({size},), got {tuple(mask.shape)}")
    return mask


def _make_standard_normal(network: GaussianNetwork, units: Tensor) -> None:
    for head in (network.mean, network.log_std):
        head.weight[units] = 0.0
        head.bias[units] = 0.0


def _first_layers(network: nn.Module | None) -> list[nn.Linear]:
    """Return the linear layers that read the network's input: its first hidden layer, or its heads without one."""
    if network is None:
        return []
    hidden = [module for module in cast(nn.Sequential, network.hidden) if isinstance(module, nn.Linear)]
    return hidden[:1] or [module for module in network.modules() if isinstance(module, nn.Linear)]
