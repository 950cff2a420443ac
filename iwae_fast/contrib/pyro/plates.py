"""The layout of Pyro's sites: which of their axes are particles and data, and which are summed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor

PARTICLES = "num_particles_vectorized"
"""The name of the plate of particles, as in Pyro's own objectives."""

Site = dict[str, Any]


class Layout(NamedTuple):
    """The axes that all sites share: particles, and the plates that contain every site, whose elements are the data.

    Every element of these plates has importance weights of its own. All other plates are summed.
    """

    particles: int
    """Axis of the particles, negative, counted within the batch axes. It is the leftmost."""
    plates: tuple[int, ...]
    """Axes of the plates that all sites share, negative, from left to right."""
    sizes: tuple[int, ...]
    """Sizes of these plates."""
    scale: float
    """The factor by which subsampling of these plates scales log-densities."""

    @classmethod
    def of(cls, sites: Iterable[Site], particles: int) -> Layout:
        """Return the layout of sample sites."""
        frames = [frozenset(f for f in site["cond_indep_stack"] if f.vectorized) for site in sites]
        shared = sorted(frozenset.intersection(*frames) if frames else (), key=lambda frame: frame.dim)
        shared = [frame for frame in shared if frame.name != PARTICLES]
        scale = math.prod(frame.full_size / frame.size for frame in shared if frame.full_size is not None)
        return cls(particles, tuple(f.dim for f in shared), tuple(int(f.size) for f in shared), scale)

    def rows(self, log_prob: Tensor, num_particles: int) -> Tensor:
        """Sum a log-density over the axes that sites do not share; return it as (k, B), without the factor of
        subsampling that all sites share."""
        log_prob = log_prob[(None,) * (-self.particles - log_prob.dim())]
        summed = [dim for dim in range(self.particles + 1, 0) if dim not in self.plates]
        if summed:
            log_prob = log_prob.sum(summed, keepdim=True)
        shape = [1] * -self.particles
        for dim, size in zip((self.particles, *self.plates), (num_particles, *self.sizes), strict=True):
            shape[dim] = size
        log_prob = log_prob.expand(shape).reshape(num_particles, math.prod(self.sizes))
        return log_prob if self.scale == 1.0 else log_prob / self.scale

    def flatten(self, value: Tensor, event_dim: int) -> Tensor:
        """Return a value of a latent site, (batch..., event...), as (k, B, E), with all other axes in the last one."""
        kept = [dim - event_dim for dim in (self.particles, *self.plates)]
        value = value[(None,) * (event_dim - self.particles - value.dim())]
        value = value.movedim(kept, tuple(range(len(kept))))
        return value.reshape(len(value), math.prod(self.sizes), -1)

    def restore(self, flat: Tensor, like: Tensor, event_dim: int) -> Tensor:
        """Return (k, B, E) in the layout of the value ``like``, which may have another number of particles."""
        kept = [dim - event_dim for dim in (self.particles, *self.plates)]
        shape = [1] * (event_dim - self.particles - like.dim()) + list(like.shape)
        shape[kept[0]] = len(flat)
        others = [shape[dim] for dim in range(-len(shape), 0) if dim not in kept]
        return flat.reshape([shape[dim] for dim in kept] + others).movedim(tuple(range(len(kept))), kept)
