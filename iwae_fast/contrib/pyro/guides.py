"""The guide's part of an objective: its samples, checks of its sites, and the gradient of log q at fixed parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import detach
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from ...models.terms import LogQGradient
from ...objectives.estimators import ESTIMATORS
from .log_probs import log_prob
from .plates import Layout, Site

Program = Callable[[], Any]
"""A model or guide with its arguments bound."""


class _Held(Messenger):
    """Detach every sampled value, so that no gradient flows through it."""

    def _pyro_post_sample(self, message: Any) -> None:
        if not message["is_observed"] and isinstance(message["value"], Tensor):
            message["value"] = message["value"].detach()


def sampled(guide: Program, log_q_gradient: LogQGradient) -> poutine.Trace:
    """Run the guide and return its trace; values are detached if the estimator uses the score."""
    if log_q_gradient is LogQGradient.SCORE:
        with _Held():
            return poutine.trace(guide).get_trace()
    return poutine.trace(guide).get_trace()


def sites_of(trace: poutine.Trace) -> dict[str, Site]:
    """Return the sample sites of a trace, without those that choose a subsample."""
    pruned = prune_subsample_sites(trace)
    return {name: site for name, site in pruned.nodes.items() if site["type"] == "sample"}


def check_sites(estimator: str, guide: Mapping[str, Site], model: Mapping[str, Site]) -> None:
    """Raise ValueError for sites with which the estimator is not valid."""
    through_z = ESTIMATORS[estimator].log_q_gradient is not LogQGradient.SCORE
    for name, site in {**model, **guide}.items():
        if site["infer"].get("enumerate"):
            raise ValueError(
                f"site {name!r} is enumerated, but importance weights need a sample: use pyro.infer.TraceEnum_ELBO"
            )
    for name, site in guide.items():
        if through_z and not site["is_observed"] and not site["fn"].has_rsample:
            scores = ", ".join(key for key, each in ESTIMATORS.items() if each.log_q_gradient is LogQGradient.SCORE)
            raise ValueError(
                f"estimator {estimator!r} differentiates through latent site {name!r}, but "
                f"{type(_base(site['fn'])).__name__} is not reparameterized: use one of {scores}"
            )
    for name, site in model.items():
        if not site["is_observed"] and name not in guide:
            raise ValueError(f"latent site {name!r} of the model is missing in the guide")


def pathwise_log_q(
    guide: Program, trace: poutine.Trace, layout: Layout, num_particles: int, scales: Tensor
) -> list[tuple[str, Tensor]]:
    """Return the gradient of the sum of ``scales`` (k, B) times log q with respect to each latent value, by site, with
    the parameters of q held fixed.

    The values on which the distribution of a later site depends keep their effect on it.
    """
    sources = {name: site for name, site in sites_of(trace).items() if not isinstance(_base(site["fn"]), dist.Delta)}
    leaves = {name: site["value"].detach().requires_grad_() for name, site in sources.items()}
    if not leaves:
        return []
    with torch.enable_grad():
        if len(sources) == len(sites_of(trace)) == 1:  # its distribution does not depend on other sites
            (site,) = sources.values()
            sites = [{**site, "fn": detach(site["fn"]), "value": leaf} for leaf in leaves.values()]
        else:
            replayed = trace.copy()
            for name, site in sites_of(trace).items():
                replayed.remove_node(name)
                if name in leaves:
                    replayed.add_node(name, **{**site, "value": leaves[name]})
            sites = list(sites_of(poutine.trace(poutine.replay(guide, trace=replayed)).get_trace()).values())
        total = torch.stack([layout.rows(log_prob(site), num_particles) for site in sites]).sum(0)
        gradients = torch.autograd.grad(total, tuple(leaves.values()), scales.to(total.dtype), allow_unused=True)
    return [(name, gradient) for name, gradient in zip(leaves, gradients, strict=True) if gradient is not None]


def _base(fn: Any) -> Any:
    """Return a distribution without the wrappers that make its axes event axes, expand or mask it."""
    while (inner := getattr(fn, "base_dist", None)) is not None and not isinstance(fn, dist.TransformedDistribution):
        fn = inner
    return fn
