"""Supports of densities of z: log p(z) - log q(z) is meaningful only if both are densities on the same set."""

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
    """The kind of points, which determines the base measure of the density: length, counting, area of a simplex."""
    low: Number = -math.inf
    """Lower end of the interval of each dimension."""
    high: Number = math.inf
    """Upper end of the interval of each dimension."""

    def __str__(self) -> str:
        if self.kind not in (REALS, INTEGERS) or (self.kind == REALS and same(self, REAL)):
            return self.kind
        return f"{self.kind} from {_shown(self.low)} to {_shown(self.high)}"


REAL = Region(REALS)
"""The support of every Gaussian."""


def same(one: Region, other: Region) -> bool:
    """Return True if two regions are equal. Forces a synchronization if the ends are tensors on a device."""
    if one is other:
        return True
    return one.kind == other.kind and all(_equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))


def region_of(distribution: Distribution) -> Region | None:
    """Return the support of a distribution, from its ``support`` attribute; None if unknown."""
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
    if isinstance(distribution, VonMises):  # torch declares real numbers, but the density of the angle is on a circle
        return Region(REALS, -math.pi, math.pi)
    if isinstance(distribution, ExpRelaxedCategorical):  # torch declares real vectors
        return Region("logarithms of points of a simplex")
    try:
        return region_of_constraint(distribution.support)
    except NotImplementedError:
        return None


def region_of_constraint(support: Any) -> Region | None:
    """Return the region of a constraint of torch.distributions; None if unknown."""
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
"""Region of each constraint that densities of vectors can have."""


def check(posterior: Region | None, prior: Region | None) -> None:
    """Raise ValueError if q(z | x) and p(z) are known to have different supports."""
    if posterior is None or prior is None or same(posterior, prior):
        return
    raise ValueError(
        f"prior must have the support of q(z | x), got p(z) over {prior}, but the encoder's q(z | x) is over "
        f"{posterior}: log p(z) - log q(z | x) would not be a log-ratio of densities; give a prior over {posterior} "
        "(a module without a support attribute is not checked)"
    )


def _image(region: Region | None, transform: Transform) -> Region | None:
    """Return the image of a region under a transform, as far as torch specifies it."""
    parts = getattr(transform, "parts", None)
    if parts is not None:
        for part in parts:
            region = _image(region, part)
        return region
    domain, codomain = (region_of_constraint(end) for end in (transform.domain, transform.codomain))
    if region is None or region.kind == REALS or domain is None or region.kind == domain.kind:
        return codomain
    return Region(f"an image of {region.kind}")  # the codomain does not describe it; the number of dimensions is kept


def _shown(end: Number) -> str:
    """Return an end as text, or the range of ends if they differ between dimensions."""
    least, most = (float(of(torch.as_tensor(end))) for of in (torch.min, torch.max))
    return f"{least:g}" if least == most else f"{least:g} .. {most:g}"


def _equal(one: Number, other: Number) -> bool:
    """Return True if two ends are equal up to the rounding of float32."""
    one, other = (torch.as_tensor(end, dtype=torch.float64).cpu() for end in (one, other))
    try:
        torch.broadcast_shapes(one.shape, other.shape)
    except RuntimeError:
        return False
    return torch.allclose(one, other, rtol=1e-6, atol=1e-30)
