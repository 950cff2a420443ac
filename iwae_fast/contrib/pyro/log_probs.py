"""Log-densities of Pyro's sites, by the package's kernels for Bernoulli and normal distributions."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ...checks import WIDE
from ...ops.densities import bernoulli_log_prob, gaussian_log_prob
from .plates import Site


def log_prob(site: Site) -> Tensor:
    """Return the log-density of a site, scaled and masked, in the shape of its batch."""
    value, fn = site["value"], site["fn"]
    density = _fused(fn, value)
    if density is None:
        density = fn.log_prob(value, *site["args"], **site["kwargs"])
    density = scale_and_mask(density, site["scale"], site["mask"])
    return density if isinstance(density, Tensor) else value.new_tensor(density)


def _fused(fn: dist.Distribution, value: Tensor) -> Tensor | None:
    """Return the log-density by one of the package's ops, or None if there is none for the distribution."""
    if type(fn) is not dist.Independent or fn.reinterpreted_batch_ndims == 0 or value.dtype not in WIDE:
        return None
    base, axes = fn.base_dist, fn.reinterpreted_batch_ndims
    of_logits = type(base) is dist.Bernoulli and "logits" in base.__dict__
    if not of_logits and type(base) is not dist.Normal:
        return None
    if base._validate_args:
        base._validate_sample(value)
    if of_logits:
        return bernoulli_log_prob(value, base.logits, event_dims=axes)
    return gaussian_log_prob(value, base.loc, _once(base.scale).log(), event_dims=axes)


def _once(tensor: Tensor) -> Tensor:
    """Return a tensor that is expanded along some axes with size 1 along them."""
    return tensor[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in tensor.stride())]
