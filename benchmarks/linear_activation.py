"""A dense layer with tanh, or without an activation, compared with torch's linear layer and tanh."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import iwae_fast as iw
from iwae_fast.reference.activations import ACTIVATIONS

from .linear_bernoulli_log_prob import backward_terms
from .ops import op_work
from .work import Work

DECODER = ((50, 200), (200, 200), (200, 784))
"""Inputs and outputs of the layers of the papers' one-layer decoder; the last one has no activation."""


def eager(hidden: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
    return ACTIVATIONS[activation](F.linear(hidden, weight, bias))


def terms(expected: Sequence[Tensor], hidden: Tensor, weight: Tensor, bias: Tensor, activation: str) -> list[Tensor]:
    of_input = F.linear(hidden.abs(), weight.abs(), bias.abs())
    if activation == "none":
        of_output, of_gradient = of_input, torch.ones_like(of_input)
    else:
        size = expected[0].abs()
        of_output = (1.0 - size.square()) * of_input + size
        of_gradient = 1.0 + 2.0 * size * of_output
    of_hidden, *others = backward_terms(of_gradient[None], hidden[None], weight)
    return [of_output, of_hidden[0], *others]


def inputs(device: torch.device, rows: int, width: int, columns: int) -> list[Tensor]:
    torch.manual_seed(0)
    hidden = torch.tanh(torch.randn(rows, width, device=device))
    return [hidden, torch.randn(columns, width, device=device) / width**0.5, torch.randn(columns, device=device)]


def works(device: torch.device, rows: int, width: int, columns: int, activation: str = "tanh") -> list[Work]:
    made = partial(inputs, device, rows, width, columns)
    shape = f"rows={rows} H={width} M={columns} {activation}"
    ours, theirs = (partial(function, activation=activation) for function in (iw.linear_activation, eager))
    condition = partial(terms, activation=activation)
    return [
        op_work("linear_activation", mode, shape, 1, ours, theirs, made, [0, 1, 2], terms=condition)
        for mode in ("forward", "forward+backward")
    ]


def gpu_works(device: torch.device) -> list[Work]:
    """Return the layers of the papers' network: the encoder's first one on 20 rows, the decoder's on 1000 and 10,000
    rows, which are 50 and 500 samples of 20 observations."""
    layers = [(20, 784, 200), *((rows, *sizes) for rows in (1000, 10_000) for sizes in DECODER)]
    return [
        work
        for rows, width, columns in layers
        for work in works(device, rows, width, columns, "none" if columns == 784 else "tanh")
    ]
