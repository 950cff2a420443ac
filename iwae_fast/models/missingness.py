"""Models of which features are missing: p(mask | x), for values that are missing not at random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks

SOFTPLUS_IS_ONE = math.log(math.e - 1.0)


class SelfMasking(nn.Module):
    """Missingness that depends on the value of the feature itself: logit p(observed_d | x) = slope_d x_d + intercept_d.

    Ipsen, Mattei & Frellsen (2021), "not-MIWAE: deep generative modelling with missing not at random data", section 3.

    Args:
        data_dim: D.
        direction: "high" if high values are known to go missing more often (slope < 0), "low" if low values are, or
            None if the sign of the slope is to be learned.

    Calling it on x (..., D) returns the logits of being observed, (..., D).
    """

    def __init__(self, data_dim: int, direction: str | None = None) -> None:
        super().__init__()
        if direction not in (None, "high", "low"):
            raise ValueError(f"direction must be 'high', 'low' or None, got {direction!r}")
        self.data_dim: int = checks.positive("data_dim", data_dim)
        self.direction = direction
        initial = 0.0 if direction is None else SOFTPLUS_IS_ONE
        self.slope: nn.Parameter = nn.Parameter(torch.full((data_dim,), initial))
        self.intercept: nn.Parameter = nn.Parameter(torch.zeros(data_dim))

    def forward(self, x: Tensor) -> Tensor:
        slope = self.slope
        if self.direction is not None:
            slope = F.softplus(slope) if self.direction == "low" else -F.softplus(slope)
        return slope * x + self.intercept

    def extra_repr(self) -> str:
        return f"data_dim={self.data_dim}, direction={self.direction!r}"


class GeneralMasking(nn.Sequential):
    """Missingness that depends on all features: the logits of being observed are a network of x.

    Args:
        data_dim: D.
        hidden_dims: the sizes of its tanh layers; () for logits that are linear in x (Ipsen, Mattei & Frellsen 2021).

    Calling it on x (..., D) returns the logits, (..., D).
    """

    def __init__(self, data_dim: int, hidden_dims: Sequence[int] = ()) -> None:
        sizes = (checks.positive("data_dim", data_dim), *(checks.positive("hidden_dims", h) for h in hidden_dims))
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.Tanh()]
        super().__init__(*layers, nn.Linear(sizes[-1], data_dim))
        self.data_dim = data_dim
