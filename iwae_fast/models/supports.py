"""Where densities of z live: log p(z) - log q(z) means something only where both are of one measure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    TransformedDistribution,
    VonMises,
    constraints,
)
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical
from torch.distributions.transforms import Transform

Number = float | Tensor

REALS, INTEGERS = "real numbers", "whole numbers"


class Region(NamedTuple):
    """The set on which a distribution of z has its density, up to sets of probability zero such as end points."""

    kind: str
    """What its points are, which says by which measure the density is: lengths, counts, areas of a simplex."""
    low: Number = -math.inf
    high: Number = math.inf
    """The ends of each dimension's interval."""

    def __str__(self) -> str:
        if self.kind not in (REALS, INTEGERS) or (self.kind == REALS and same(self, REAL)):
            return self.kind
        return f"{self.kind} from {_shown(self.low)} to {_shown(self.high)}"


REAL = Region(REALS)
"""The support of every Gaussian."""


def same(one: Region, other: Region) -> bool:
    """Return whether two regions are one. Waits for the device where ends are tensors on one."""
    if one is other:
        return True
    return one.kind == other.kind and all(_equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))


def region_of(distribution: Distribution) -> Region | None:
    """Return where a distribution has its density, by its ``support``; None where that is not known."""
    if isinstance(distribution, Independent):
        return region_of(distribution.base_dist)
    if isinstance(distribution, MixtureSameFamily):
        return region_of(distribution.component_distribution)
    inherited = getattr(type(distribution), "support", None) is TransformedDistribution.support
    if isinstance(distribution, TransformedDistribution) and inherited:
        region = region_of(distribution.base_dist)
        for transform in distribution.transforms:
            region = _image(region, transform)
        return region
    if isinstance(distribution, VonMises):  # torch says real numbers; its density of the angle goes once around
        return Region(REALS, -math.pi, math.pi)
    if isinstance(distribution, ExpRelaxedCategorical):  # torch says real vectors, and in a comment what it is
        return Region("logarithms of points of a simplex")
    try:
        return region_of_constraint(distribution.support)
    except NotImplementedError:
        return None


def region_of_constraint(support: Any) -> Region | None:
    """Return the region of a constraint of torch.distributions; None where that is not known."""
    if isinstance(support, constraints.independent):
        return region_of_constraint(support.base_constraint)
    for kind, region in REGIONS.items():
        if isinstance(support, kind):
            return region(support)
    return None


REGIONS: dict[Any, Callable[[Any], Region]] = {
    type(constraints.real): lambda _: REAL,
    constraints.interval: lambda support: Region(REALS, support.lower_bound, support.upper_bound),
    constraints.half_open_interval: lambda support: Region(REALS, support.lower_bound, support.upper_bound),
    constraints.greater_than: lambda support: Region(REALS, low=support.lower_bound),
    constraints.greater_than_eq: lambda support: Region(REALS, low=support.lower_bound),
    constraints.less_than: lambda support: Region(REALS, high=support.upper_bound),
    type(constraints.boolean): lambda _: Region(INTEGERS, 0, 1),
    constraints.integer_interval: lambda support: Region(INTEGERS, support.lower_bound, support.upper_bound),
    type(constraints.nonnegative_integer): lambda support: Region(INTEGERS, low=support.lower_bound),
    constraints.multinomial: lambda support: Region("counts of a sum", 0, support.upper_bound),
    type(constraints.simplex): lambda _: Region("points of a simplex"),
    type(constraints.one_hot): lambda _: Region("one-hot vectors"),
}
"""What the constraints say that a density of a vector can have."""


def check(posterior: Region | None, prior: Region | None) -> None:
    """Raise ValueError where q(z | x) and p(z) are known to live on different sets."""
    if posterior is None or prior is None or same(posterior, prior):
        return
    raise ValueError(
        f"prior must have the support of q(z | x), got p(z) over {prior} where the encoder's q(z | x) is over "
        f"{posterior}: log p(z) - log q(z | x) would be no log-ratio of densities; give a prior over {posterior} "
        "(a module whose support is not said is not asked)"
    )


def _image(region: Region | None, transform: Transform) -> Region | None:
    """Return where a transform takes a region, as far as torch says where it leads to."""
    parts = getattr(transform, "parts", None)
    if parts is not None:
        for part in parts:
            region = _image(region, part)
        return region
    domain, codomain = (region_of_constraint(end) for end in (transform.domain, transform.codomain))
    if region is None or region.kind == REALS or domain is None or region.kind == domain.kind:
        return codomain
    return Region(f"an image of {region.kind}")  # as many dimensions as before, whatever they are called


def _shown(end: Number) -> str:
    """Return an end in words, in short where dimensions have ends of their own."""
    least, most = (float(of(torch.as_tensor(end))) for of in (torch.min, torch.max))
    return f"{least:g}" if least == most else f"{least:g} .. {most:g}"


def _equal(one: Number, other: Number) -> bool:
    """Return whether two ends are one, to the rounding of float32."""
    one, other = (torch.as_tensor(end, dtype=torch.float64).cpu() for end in (one, other))
    try:
        torch.broadcast_shapes(one.shape, other.shape)
    except RuntimeError:
        return False
    return torch.allclose(one, other, rtol=1e-6, atol=1e-30)
