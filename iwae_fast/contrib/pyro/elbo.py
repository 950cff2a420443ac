"""An objective for ``pyro.infer.SVI`` with the package's bounds, estimators and budgets."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.util import is_validation_enabled, torch_item
from pyro.poutine.messenger import Messenger
from pyro.util import check_site_shape, warn_if_nan
from torch import Tensor

from ... import checks
from ...bounds import IWAE, Bound
from ...models.terms import LogQGradient
from ...objectives import estimators
from ...objectives.budgets import within_budget
from ...objectives.estimators import Scales
from ...objectives.routing import GradientRouter, WeightedTerms, with_ratio
from ...ops.function import applied
from .guides import Program, check_sites, pathwise_log_q, sampled, sites_of
from .log_probs import log_prob
from .plates import PARTICLES, Layout, Site


class IWAE_ELBO(ELBO):  # noqa: N801  (as Pyro's own names)
    """An importance-weighted objective (Burda, Grosse & Salakhutdinov 2016) for Pyro's models and guides.

    It is used like Pyro's own: ``SVI(model, guide, optimizer, loss=IWAE_ELBO(50))``, or ``IWAE_ELBO(50)(model, guide)``
    as a module whose call returns the loss. Particles run at once, in a plate outside all others, so model and guide
    must be written for plates.

    Every element of the plates that contain all sites, such as an observation with its own latent variable, has its
    own importance weights and bound. The bounds are summed, and multiplied by the factor of subsampling. If a site lies
    outside the plate, such as a global latent variable, there is one bound for all data, as in ``RenyiELBO``.

    Args:
        num_particles: k, the number of samples, at least 1.
        bound: one of :mod:`iwae_fast.bounds`; IWAE() by default.
        estimator: gradient estimator, a name as in :class:`iwae_fast.Objective`, except "gdreg". Latent variables that
            are not reparameterized, such as discrete ones, need "vimco" or "rws".
        budget: if fewer than k, run only this many particles of the model backward, chosen by their weights, with an
            unbiased gradient. The model then runs twice: with all particles without a graph, then with the chosen ones.
        max_plate_nesting: the largest number of nested plates in model and guide; found by running them once if not
            given.
        retain_graph: as in Pyro: keep the graph after ``loss_and_grads``.

    Raises:
        TypeError, ValueError: an argument is invalid; or, in a call, a site does not fit the estimator.
    """

    def __init__(
        self,
        num_particles: int = 1,
        bound: Bound | None = None,
        estimator: str = "reparameterized",
        budget: int | None = None,
        *,
        max_plate_nesting: float = math.inf,
        retain_graph: bool | None = None,
    ) -> None:
        self.bound: Bound = IWAE() if bound is None else bound
        if not isinstance(self.bound, Bound):
            raise TypeError(f"bound must be one of iwae_fast.bounds, such as IWAE(), got {bound!r}")
        checks.positive("num_particles", num_particles)
        self.estimator = estimator
        self._estimator = estimators.check(estimator, self.bound, num_particles, weighs_divergence=False)
        if self._estimator.reparameterize_prior:
            raise ValueError(f"estimator {estimator!r} is not available for Pyro's models: use 'dreg'")
        self.budget: int | None = None if budget is None else checks.positive("budget", budget)
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=True,
            retain_graph=retain_graph,
        )

    def loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """Return minus the bound, in nats."""
        with torch.no_grad():
            return self._checked(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """Return minus the bound, in nats, after adding its gradient to that of the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return self._checked(loss)

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return minus the bound, in nats, with the estimator's gradient."""
        call = self._call(model, guide, args, kwargs)
        value = call.run()
        return -value.sum() * call.layout.scale

    def log_weights(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Return log p(x, z_i) - log q(z_i | x) of all particles, (k, B) in nats, for each of the B elements of the
        plates that contain all sites. A factor of subsampling is left out."""
        return self._call(model, guide, args, kwargs).log_weights()

    def _call(
        self, model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Call:
        if isinstance(poutine.unwrap(guide), Messenger):
            raise TypeError(f"guide must be a function or module of its own, got the messenger {type(guide).__name__}")
        bound, k = self.bound.for_call(self.num_particles, None)
        if self.max_plate_nesting == math.inf:
            self._guess_max_plate_nesting(model, guide, args, kwargs)
        # Pyro reserves an axis for the particles only if there are several.
        axis = -int(self.max_plate_nesting) - (self.num_particles == 1)
        return _Call(self, bound, k, axis, partial(model, *args, **kwargs), partial(guide, *args, **kwargs))

    def _get_trace(self, *_: Any) -> Any:
        raise TypeError("IWAE_ELBO has no trace of a single particle: call loss, loss_and_grads or differentiable_loss")

    def _checked(self, loss: Tensor) -> float:
        found = float(torch_item(loss))
        warn_if_nan(found, "loss")
        return found


class _Call:
    """One evaluation of an objective."""

    def __init__(
        self, objective: IWAE_ELBO, bound: Bound, num_particles: int, axis: int, model: Program, guide: Program
    ) -> None:
        self.objective, self.bound, self.k, self.axis = objective, bound, num_particles, axis
        self.estimator = objective._estimator
        self.model, self.guide = model, self._in_plate(guide, num_particles)
        self.trace = sampled(self.guide, self.estimator.log_q_gradient)
        self.latent = sites_of(self.trace)
        self.layout = Layout.of(self.latent.values(), axis)

    def run(self) -> Tensor:
        """Return the bounds (B,) with the estimator's gradient."""
        budget = self.objective.budget
        if torch.is_grad_enabled() and budget is not None and budget < self.k:
            return self._chosen_particles(budget)
        both = self.bound.for_decoder is self.bound and self.bound.for_encoder is self.bound
        if (self.objective.estimator == "reparameterized" and both) or not torch.is_grad_enabled():
            return self.bound(self.log_weights())  # the bound's own gradient is the estimator's
        router = GradientRouter()
        log_p = self._log_p(router)
        log_q = self._log_q()
        value, scales = self._scaled(log_p, log_q)
        return self._with_gradient(value, scales, scales.encoder, router, log_p, log_q)

    def log_weights(self) -> Tensor:
        """Return the log-weights of all particles, (k, B)."""
        log_p = self._log_p()  # first, since it may change the layout
        return log_p - self._log_q()

    def _chosen_particles(self, budget: int) -> Tensor:
        """Compute all weights without a graph of the model, then run the chosen particles of the model with one."""
        with torch.no_grad():
            log_p = self._log_p()
        log_q = self._log_q()
        value, scales = self._scaled(log_p, log_q)
        exponential = torch.empty_like(scales.decoder).exponential_()
        selection = within_budget(scales, budget, exponential)
        router = GradientRouter()
        log_p = self._log_p(router, selection.samples)
        # Added, because a particle without weight may be drawn a second time.
        encoder = torch.zeros_like(scales.encoder).scatter_add(0, selection.samples, selection.scales.encoder)
        return self._with_gradient(value, selection.scales, encoder, router, log_p, log_q)

    def _with_gradient(
        self, value: Tensor, scales: Scales, encoder: Tensor, router: GradientRouter, log_p: Tensor, log_q: Tensor
    ) -> Tensor:
        """Return the value with the gradient of the particles' terms times their scales.

        ``log_p`` and ``scales`` are those of the particles that run backward, ``encoder`` and ``log_q`` those of all.
        """
        (decoder, _), ratio = with_ratio(scales, 0.5 * torch.finfo(log_p.dtype).eps)
        scaled = [(decoder, log_p)]
        if self.estimator.log_q_gradient is LogQGradient.PATHWISE:
            one = torch.ones_like(encoder)
            for name, gradient in pathwise_log_q(self.guide, self.trace, self.layout, self.k, -encoder):
                site = self.latent[name]
                product = self.layout.flatten(gradient * site["value"], site["fn"].event_dim).sum(-1)
                scaled.append((one, product))
        else:
            scaled.append((-encoder, log_q))
        messenger = router.messenger(log_p)
        weighted: Tensor = applied(WeightedTerms)(value, ratio, messenger, *(part for pair in scaled for part in pair))
        return weighted

    def _scaled(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Scales]:
        with torch.no_grad():
            return estimators.value_and_scales(self.estimator, self.bound, (log_p - log_q).detach(), 1.0)

    def _log_q(self) -> Tensor:
        """Return log q of all particles, (k, B)."""
        return self._sum(self.latent, self.k)

    def _log_p(self, router: GradientRouter | None = None, samples: Tensor | None = None) -> Tensor:
        """Run the model on the guide's values and return its log-density, (k, B).

        Args:
            router: the router through which the values pass.
            samples: indices of the particles to run, (m, B); all of them if None.
        """
        count = self.k if samples is None else len(samples)
        model = self._in_plate(self.model, count)
        replayed = self.trace if router is None else self._routed(router, samples)
        sites = sites_of(poutine.trace(poutine.replay(model, trace=replayed)).get_trace())
        if samples is None:
            check_sites(self.objective.estimator, self.latent, sites)
            layout = Layout.of([*sites.values(), *self.latent.values()], self.axis)
            if layout != self.layout:  # a site of the model lies outside plates that contain all of the guide's
                self.layout = layout
                if router is not None:
                    router.restart()
                    return self._log_p(router)
        return self._sum(sites, count)

    def _routed(self, router: GradientRouter, samples: Tensor | None) -> poutine.Trace:
        """Return the guide's trace with values that have passed through a router."""
        trace = self.trace.copy()
        for name, site in self.latent.items():
            if site["infer"].get("is_auxiliary") or site["is_observed"]:
                continue
            value, event_dim = site["value"], site["fn"].event_dim
            flat = self.layout.flatten(value, event_dim)
            if samples is not None:
                flat = flat.gather(0, samples[..., None].expand(-1, -1, flat.shape[-1]))
            flat, _, _ = router(flat)
            trace.nodes[name] = {**site, "value": self.layout.restore(flat, value, event_dim)}
        return trace

    def _sum(self, sites: dict[str, Site], count: int) -> Tensor:
        total = torch.zeros(())
        for name, site in sites.items():
            density = log_prob(site)
            if density.dim() > -self.axis:
                raise ValueError(
                    f"site {name!r} has {density.dim()} batch axes, but there are {-self.axis} for particles and "
                    "plates: declare its axes by plates or to_event"
                )
            if is_validation_enabled():
                check_site_shape({**site, "log_prob": density}, -self.axis)
            total = total + self.layout.rows(density, count)
        return total

    def _in_plate(self, program: Program, count: int) -> Program:
        return pyro.plate(PARTICLES, count, dim=self.axis)(program)
