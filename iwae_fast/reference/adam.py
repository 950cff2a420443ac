"""Adam and AdamW in plain torch, in the order of operations of ``torch.optim``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class AdamSettings(NamedTuple):
    """The settings of a step of Adam (Kingma & Ba 2015)."""

    lr: float | Tensor
    beta1: float
    beta2: float
    eps: float
    weight_decay: float = 0.0
    decoupled: bool = False
    """True for weight decay apart from the gradient: AdamW (Loshchilov & Hutter 2019)."""
    maximize: bool = False
    corrects_eps: bool = False
    """True to add eps before the bias correction: the form just before section 2.1 of Kingma & Ba (2015)."""
    max_norm: float | None = None
    """The norm of all gradients together to which they are clipped; None to leave them as they are."""


class AdamTensors(NamedTuple):
    """Parameters with one device and dtype, their gradients, and Adam's state; steps write to all of them."""

    parameters: Sequence[Tensor]
    gradients: Sequence[Tensor]
    first: Sequence[Tensor]
    second: Sequence[Tensor]
    steps: Sequence[Tensor]
    """The numbers of steps taken so far, float32 scalars."""


class AdamExtras(NamedTuple):
    """Tensors of a step that are optional."""

    scale: Tensor | None = None
    """A scalar by which the gradients are divided first, also where they are stored."""
    found_inf: Tensor | None = None
    """A scalar; nothing changes if it is not 0."""
    squares: Tensor | None = None
    """Numbers whose sum is that of the squares of all gradients, needed to clip them."""


def sum_squares(gradients: Sequence[Tensor]) -> Tensor:
    """Return the sum of the squares of each gradient, float64, (n,)."""
    return torch.stack([gradient.double().square().sum() for gradient in gradients])


@torch.no_grad()
def adam(tensors: AdamTensors, settings: AdamSettings, extras: AdamExtras) -> None:
    """Take a step, in place; each gradient and its state have the dtype of the parameter."""
    for each in zip(*tensors, strict=True):
        changed = _updated(*each, settings, extras)
        for tensor, new in zip(each, changed, strict=True):
            tensor.copy_(new if extras.found_inf is None else torch.where(extras.found_inf == 0, new, tensor))


def _updated(
    parameter: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    step: Tensor,
    settings: AdamSettings,
    extras: AdamExtras,
) -> tuple[Tensor, ...]:
    wide = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    parameter, gradient, first, second = (t.to(wide) for t in (parameter, gradient, first, second))
    if extras.scale is not None:
        gradient = gradient / extras.scale
    g = gradient
    if settings.max_norm is not None and extras.squares is not None:
        norm = extras.squares.sum().sqrt()
        if extras.scale is not None:
            norm = norm / extras.scale
        g = g * (settings.max_norm / (norm + 1e-6)).clamp(max=1.0).to(wide)
    if settings.maximize:
        g = -g
    if settings.decoupled:
        parameter = parameter * (1.0 - settings.lr * settings.weight_decay)
    else:
        g = g + parameter * settings.weight_decay
    first = first + (g - first) * (1.0 - settings.beta1)
    second = second * settings.beta2 + g * (1.0 - settings.beta2) * g
    # In float64: 1 - beta^t loses precision for small t.
    step = step + 1
    deviation = torch.sqrt(1.0 - settings.beta2 ** step.double())
    rate = (settings.lr / (1.0 - settings.beta1 ** step.double())).to(wide)
    eps = settings.eps / deviation if settings.corrects_eps else torch.full_like(deviation, settings.eps)
    parameter = parameter - first * rate / (second.sqrt() / deviation.to(wide) + eps.to(wide))
    return parameter, gradient, first, second, step
