"""The training steps that the kernel serves, and the reasons why it does not serve others."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..backends import MISSING, NATIVE
from ..capture.obstacles import of_model
from ..likelihoods.bernoulli import Bernoulli
from ..models import DenseVAE, LatentVariableModel
from ..models.dense import DenseDecoder, DenseLayer, GaussianNetwork, TanhLayer
from ..models.terms import LogQGradient
from ..modules import defines
from ..objectives import Objective
from ..optim import Adam

BACKEND = "cuda"
"""The backend that has the kernel."""


def refusal(objective: Objective, model: LatentVariableModel, optimizer: Optimizer) -> str | None:
    """Return the reason why training steps are not served in one launch, or None if they are."""
    return of_objective(objective) or of_network(model) or of_optimizer(optimizer, model) or of_device(model)


def of_objective(objective: Objective) -> str | None:
    """Return the reason why an objective is not served, or None."""
    bound, estimator = objective.bound, objective._estimator
    if not objective.single_pass:
        return "a budget, a tolerance or chunk_size divides the samples, which run together here"
    if objective.free_bits:
        return "free_bits is not supported"
    if callable(objective.kl_weight):
        return "kl_weight is a schedule: its values are computed on the host"
    if objective.reduction == "none":
        return "reduction 'none' does not produce a scalar loss"
    form = bound.power_mean
    if not bound.is_mean and (form is None or form.groups != 1):
        return f"the bound must be IWAE, ELBO or VRIWAE with alpha from 0 to 0.75, got {bound!r}"
    if estimator.polynomial is None or estimator.log_q_gradient is LogQGradient.SCORE:
        return f"estimator {objective.estimator!r} is not supported: its gradient does not pass through z"
    return None


def of_network(model: LatentVariableModel) -> str | None:
    """Return the reason why a model is not served, or None."""
    if type(model) is not DenseVAE:
        return f"the model must be a DenseVAE, got {type(model).__name__}"
    if len(model.latent_dims) > 1:
        return f"the model has {len(model.latent_dims)} stochastic layers, one is supported"
    if model.prior is not None:
        return f"the prior must be N(0, I), got {type(model.prior).__name__}"
    if type(model.likelihood) is not Bernoulli:
        return f"the likelihood must be 'bernoulli', got {model.likelihood.name!r}"
    if (reason := of_model(model)) is not None:
        return reason
    if (name := _changed_module(model)) is not None:
        return f"{name} is not the dense network that DenseVAE builds"
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            return f"parameters must be float32, {name} is {parameter.dtype}"
        if not parameter.is_contiguous():
            return f"parameters must be contiguous, {name} is not"
        if not parameter.requires_grad:
            return f"all parameters must be trained, {name} does not require a gradient"
    return None


def layers_of(model: DenseVAE) -> list[nn.Linear]:
    """Return the layers in the order of :func:`iwae_fast.fused.plan.plan_step`."""
    encoder: Any = model.encoder
    decoder: Any = model.decoder
    return [*encoder.hidden, encoder.mean, encoder.log_std, *decoder.hidden, decoder.output]


def _changed_module(model: DenseVAE) -> str | None:
    """Return the name of a module that may compute something else than the dense network does, or None."""
    encoder, decoder = model.encoder, model.decoder
    if type(encoder) is not GaussianNetwork or not defines(encoder, GaussianNetwork, "forward"):
        return "the encoder"
    if type(decoder) is not DenseDecoder or not defines(decoder, DenseDecoder, "forward", "features"):
        return "the decoder"
    expected: list[tuple[str, nn.Module, type]] = [
        *((f"encoder.hidden.{index}", layer, TanhLayer) for index, layer in enumerate(encoder.hidden)),
        ("encoder.mean", encoder.mean, DenseLayer),
        ("encoder.log_std", encoder.log_std, DenseLayer),
        *((f"decoder.hidden.{index}", layer, TanhLayer) for index, layer in enumerate(decoder.hidden)),
        ("decoder.output", decoder.output, nn.Linear),
    ]
    for name, layer, kind in expected:
        if type(layer) is not kind or not defines(layer, kind, "forward") or layer.bias is None:
            return name
    if sum(1 for _ in model.parameters()) != 2 * len(expected):
        return "the model"
    sizes = [(layer.in_features, layer.out_features) for layer in layers_of(model)]
    hidden, latent = model.hidden_dims[0], model.latent_dims[0]
    widths = [model.data_dim, *hidden]
    chain = [*itertools.pairwise(widths), (widths[-1], latent), (widths[-1], latent)]
    widths = [latent, *hidden[::-1], model.data_dim]
    return None if sizes == [*chain, *itertools.pairwise(widths)] else "the model"


def of_optimizer(optimizer: Optimizer, model: nn.Module) -> str | None:
    """Return the reason why an optimizer is not served, or None."""
    if not isinstance(optimizer, Adam):
        return f"the optimizer must be iw.optim.Adam or AdamW, got {type(optimizer).__name__}"
    if optimizer.max_norm is not None:
        return "the optimizer clips gradients to max_norm, for which all of them must be known before the update"
    if len(optimizer.param_groups) != 1:
        return f"the optimizer must have one group of parameters, got {len(optimizer.param_groups)}"
    if {id(p) for p in optimizer.param_groups[0]["params"]} != {id(p) for p in model.parameters()}:
        return "the optimizer must have all parameters of the model, and no others"
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return "the optimizer has hooks, which the kernel would not call"
    return None


def of_device(model: nn.Module) -> str | None:
    """Return the reason why the model's device does not run the kernel, or None."""
    device = next(model.parameters()).device
    backend = NATIVE[BACKEND]
    if (reason := MISSING[BACKEND]) is not None:
        return reason
    if device.type != backend.device:
        return f"the model is on {device}, but the kernel requires a CUDA device"
    return backend.no_training_steps(device)  # type: ignore[attr-defined]
