"""Training of a model on a table that fits into memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks
from ..models import LatentVariableModel
from ..objectives import Objective


def fit(
    model: LatentVariableModel,
    objective: Objective,
    x: Tensor,
    mask: Tensor,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float = 0.0,
) -> list[float]:
    """Train a model on observations (N, D) with a mask, by AdamW with a rate that decreases to 0 by a cosine.

    Noise and order are those of torch's global generator.

    Returns:
        Minus the bound in nats per observation, by epoch.

    Raises:
        TypeError, ValueError: a number is invalid.
        RuntimeError: the loss is not finite.
    """
    for name, value in (("max_epochs", epochs), ("batch_size", batch_size)):
        checks.positive(name, value)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    steps = epochs * math.ceil(len(x) / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    curve = []
    model.train()
    for epoch in range(epochs):
        total = torch.zeros((), dtype=torch.float64)
        for batch in torch.randperm(len(x)).split(batch_size):
            optimizer.zero_grad()
            loss = objective(model, x[batch], mask=mask[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach().double().cpu() * len(batch)
        curve.append((total / len(x)).item())
        if not math.isfinite(curve[-1]):
            raise RuntimeError(f"the loss is {curve[-1]} in epoch {epoch + 1}: use a lower learning_rate")
    model.eval()
    return curve
