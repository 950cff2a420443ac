"""A variational autoencoder around a user-supplied encoder and decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call

from ..likelihoods import Likelihood
from ..modes import evaluating
from ..modules import as_parameters
from ..ops.densities import standard_gaussian_log_prob
from ..ops.samples import seed_tensor, standard_normal
from ..seeds import torch_seeded
from .base import LatentVariableModel
from .draw import Draw
from .posteriors import DiagonalGaussian, LatentPosterior, gaussian, posterior_of
from .priors import VampPrior, as_prior, region_of_prior
from .supports import REAL
from .supports import check as check_supports
from .terms import Latents, LogQGradient, RouteZ

UPPER_MODULE = "module of an upper layer"
"""The name of such a module in errors."""


class VAE(LatentVariableModel):
    """A variational autoencoder with one or several layers of latents, z_1 nearest to the data.

    One layer: p(z) = N(0, I), q(z | x) = N(mean, exp(log_std)^2) from the encoder, p(x | z) from the decoder. With
    ``upper`` layers p(z) = p(z_L) p(z_{L-1} | z_L) ... p(z_1 | z_2) with p(z_L) = N(0, I), and
    q(z | x) = q(z_1 | x) q(z_2 | z_1) ... q(z_L | z_{L-1}) (Burda, Grosse & Salakhutdinov 2016).

    Args:
        encoder: maps observations (B, ...), and context if any, to (mean, log_std), each (B, Z), or to a
            torch.distributions object over z, (B, Z). A Normal, in Independent or not, is treated as (mean, log_std).
            Other distributions, such as flows (TransformedDistribution, whose transforms need their inverse), use
            torch's noise, and estimators that hold parameters fixed inside log q (such as "stl" and "dreg") raise
            ValueError; distributions without rsample allow only "rws" and "vimco".
        decoder: maps latents (N, Z), and context of N rows, to the parameters of the likelihood: logits (N, ...) for
            "bernoulli", (mean, log_std), each (N, ...), for "gaussian".
        likelihood: a name from :data:`iwae_fast.likelihoods.LIKELIHOODS`, or a likelihood.
        upper: a pair of modules (encoder, prior) per further layer: q(z_{l+1} | z_l) from latents (N, Z_l), and
            p(z_l | z_{l+1}) from latents (N, Z_{l+1}), each returning (mean, log_std).
        prior: p(z_L) of the topmost layer, in place of N(0, I): a torch.distributions object over z (Z,), whose
            tensors are constants; a module with ``log_prob(z (k, B, Z)) -> (k, B)`` and ``sample(n) -> (n, Z)``,
            such as :class:`MixturePrior`; or a :class:`VampPrior`. Its parameters ascend the decoder's objective.
        latent_dim: the size of the topmost z, for :meth:`sample` from N(0, I) before the model has seen observations.
            If not given, the attribute ``latent_dim`` is set by the first call of :meth:`encode` (with ``upper``
            layers, by the first call of an objective) that is not inside torch.compile.
        validate: if True, all observations are checked against the support of the likelihood, and a ValueError names
            the first entry outside; by default only the first call's, since a check synchronizes with the device.
        backend: force a backend of the package by name.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: str | Likelihood = "bernoulli",
        *,
        upper: Sequence[tuple[nn.Module, nn.Module]] = (),
        prior: nn.Module | Distribution | None = None,
        latent_dim: int | None = None,
        validate: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(encoder, decoder, likelihood, backend)
        self.validate = validate
        self.upper: nn.ModuleList = nn.ModuleList(UpperLayer(*modules) for modules in upper)
        self.prior: nn.Module | None = as_prior(prior)
        self.latent_dim = latent_dim
        self.has_conditional_priors: bool = bool(upper)

    @property
    def networks(self) -> dict[str, nn.Module]:
        named = dict(self.upper.named_children())
        upper = {f"upper.{n}.{part}": network for n, pair in named.items() for part, network in pair.named_children()}
        return {**super().networks, **upper}

    def posterior(self, output: Any) -> LatentPosterior:
        """Return q(z_1 | x): a Gaussian, which unpacks to mean and log standard deviation, each (B, Z), or a
        distribution that is not Gaussian."""
        posterior = posterior_of(output)
        if not self.upper:
            self._learn_size_of_z(posterior.size)
        return posterior

    def latents(
        self,
        posterior: LatentPosterior,
        draw: Draw,
        log_q_gradient: LogQGradient = LogQGradient.FULL,
        route: RouteZ | None = None,
    ) -> Latents:
        has_standard_prior = self.prior is None and not self.has_conditional_priors
        if not has_standard_prior or (fused := posterior.fused_draw(draw, log_q_gradient, self.backend)) is None:
            return self._in_parts(posterior, draw, log_q_gradient, route)
        z, log_ratio = fused
        if route is not None:
            z, _, _ = route(z)
        return Latents(z, None, log_ratio)

    def _in_parts(
        self, posterior: LatentPosterior, draw: Draw, log_q_gradient: LogQGradient, route: RouteZ | None
    ) -> Latents:
        """Return z_1 and the two parts of the log-ratio: first the sum of log p(z_l | z_{l+1}), with log p(z_L) of a
        prior other than N(0, I); second the rest, log p(z_L) of N(0, I) if that is the prior, minus log q(z | x)."""
        self._check_supports(posterior)
        latents, conditionals = self._ascend(posterior, draw, log_q_gradient)
        as_parents, as_children, inside_q = self._descend(latents, route)
        log_q = posterior.log_q(inside_q[0], log_q_gradient, self.backend)
        log_prior = torch.zeros_like(log_q)
        for layer, conditional, parent, child, below, above in zip(
            self.upper, conditionals, as_parents[1:], as_children, inside_q, inside_q[1:], strict=False
        ):
            if log_q_gradient is LogQGradient.PATHWISE:
                # As the condition z keeps its gradient; only the weights are held fixed.
                conditional = _by_row(layer.encoder, below, frozen=True)
            log_q = log_q + conditional.log_prob(above, self.backend)
            prior = _by_row(layer.prior, parent, frozen=route is not None and route.reparameterize_prior)
            log_prior = log_prior + prior.log_prob(child, self.backend)
        if self.prior is not None:
            return Latents(as_parents[0], log_prior + self._log_top_prior(as_children[-1]), -log_q)
        top = standard_gaussian_log_prob(inside_q[-1], backend=self.backend)
        return Latents(as_parents[0], log_prior, top - log_q)

    def _check_supports(self, posterior: LatentPosterior) -> None:
        """Raise ValueError if a prior is known to have a different support than the q of its layer."""
        region = posterior.region
        if self.upper:  # p between the layers and q above the first one are Gaussian
            check_supports(region, REAL)
            region = REAL
        check_supports(region, region_of_prior(self.prior))

    def _log_top_prior(self, z: Tensor) -> Tensor:
        """Return log p(z_L), (k, B), of a prior other than N(0, I)."""
        log_prob = self._top_prior().log_prob(z)
        if log_prob.shape != z.shape[:2]:
            raise ValueError(
                f"the prior's log_prob must return (k, B) = {tuple(z.shape[:2])} for z {tuple(z.shape)}, got "
                f"{tuple(log_prob.shape)}"
            )
        return log_prob

    def _top_prior(self) -> Any:
        """Return an object with log_prob(z) and sample(n)."""
        prior = self.prior
        return prior.mixture(self._encode_top) if isinstance(prior, VampPrior) else prior

    def _encode_top(self, value: Tensor) -> DiagonalGaussian:
        """Return q of the topmost layer for an input of its encoder."""
        if self.upper:
            layer: Any = self.upper[-1]
            return gaussian(UPPER_MODULE, layer.encoder(value))
        posterior = self.encode(value)
        if not isinstance(posterior, DiagonalGaussian):
            raise ValueError("VampPrior needs a Gaussian encoder: one that returns (mean, log_std)")
        return posterior

    def _ascend(
        self, posterior: LatentPosterior, draw: Draw, log_q_gradient: LogQGradient
    ) -> tuple[list[Tensor], list[DiagonalGaussian]]:
        """Draw z_1 .. z_L from q, (k, B, Z_l) each, and return them with the conditionals q(z_{l+1} | z_l)."""
        latents = [_held(posterior.draw(draw, self.backend), log_q_gradient)]
        conditionals: list[DiagonalGaussian] = []
        for stream, layer in enumerate(self.upper, start=1):
            conditional = _by_row(layer.encoder, latents[-1])
            conditionals.append(conditional)
            latents.append(_held(conditional.draw(draw, self.backend, stream), log_q_gradient))
        self._learn_size_of_z(latents[-1].shape[-1])
        return latents, conditionals

    def _descend(self, latents: list[Tensor], route: RouteZ | None) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return each z as the parent in p, as the child in p, and inside q."""
        if route is None:
            return latents, latents, latents
        from_prior: list[Tensor | None] = [None] * len(latents)
        if route.reparameterize_prior:
            for index, layer in enumerate(self.upper):
                mean, log_std = _by_row(layer.prior, latents[index + 1].detach())
                from_prior[index] = _by_prior_noise(latents[index], mean, log_std)
        passed = [route(z, prior) for z, prior in zip(latents, from_prior, strict=True)]
        as_parents, as_children, inside_q = (list(column) for column in zip(*passed, strict=True))
        return as_parents, as_children, inside_q

    def kl_by_dimension(self, posterior: LatentPosterior) -> Tensor:
        if self.upper or self.prior is not None:
            return super().kl_by_dimension(posterior)
        return self.as_posterior(posterior).kl_by_dimension()

    def mean_of(self, posterior: LatentPosterior) -> Tensor:
        return posterior.mean

    def layer_means(self, posterior: LatentPosterior, draw: Draw) -> tuple[Tensor, ...]:
        first = super().layer_means(posterior, draw)
        if not self.upper:
            return first
        _, conditionals = self._ascend(posterior, draw, LogQGradient.SCORE)
        return (*first, *(conditional.mean for conditional in conditionals))

    @evaluating
    def prior_draws(self, num_samples: int, seed: int | Tensor | None) -> Tensor:
        seed = seed_tensor(seed, next(self.decoder.parameters(), torch.empty(0)).device)

        def noise(dimensions: int, stream: int) -> Tensor:
            shape = (num_samples, 1, dimensions)
            return standard_normal(shape, seed, stream=stream, device=seed.device, backend=self.backend)

        top = len(self.upper)
        z = self._draw_top(num_samples, seed) if self.prior is not None else noise(self._size_of_z(), top)
        for stream in reversed(range(top)):
            mean, log_std = _by_row(self.upper[stream].prior, z)
            z = mean + torch.exp(log_std) * noise(mean.shape[-1], stream)
        return z.squeeze(1)

    def _learn_size_of_z(self, size: int) -> None:
        # A graph that torch.compile traces must not depend on earlier calls.
        if not torch.compiler.is_compiling() and self.latent_dim is None:
            self.latent_dim = size

    def _size_of_z(self) -> int:
        if self.latent_dim is None:
            called = "an objective with the model" if self.upper else "encode(x)"
            raise ValueError(f"sample() needs the size of z: give latent_dim to VAE(...), or call {called} first")
        return self.latent_dim

    def _draw_top(self, num_samples: int, seed: Tensor) -> Tensor:
        """Draw z_L, (N, 1, Z), from a prior other than N(0, I)."""
        prior = self._top_prior()
        if not callable(getattr(prior, "sample", None)):
            raise ValueError(f"sample() needs a prior with a method sample(n): {type(prior).__name__} has none")
        with torch_seeded(seed):
            return prior.sample(num_samples).unsqueeze(1)


class UpperLayer(nn.Module):
    """The modules of q(z_{l+1} | z_l) and p(z_l | z_{l+1})."""

    def __init__(self, encoder: nn.Module, prior: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.prior = prior


def _by_row(module: Any, z: Tensor, *, frozen: bool = False) -> DiagonalGaussian:
    """Apply a module that takes rows of latents to z (k, B, Z), and return a Gaussian over (k, B, Z').

    If ``frozen``, the parameters of the module are detached.
    """
    rows = as_parameters(module, z.flatten(0, 1))
    if frozen:
        fixed = {name: parameter.detach() for name, parameter in module.named_parameters()}
        output = functional_call(module, fixed, (rows,))
    else:
        output = module(rows)
    mean, log_std = gaussian(UPPER_MODULE, output)
    return DiagonalGaussian(mean.unflatten(0, z.shape[:2]), log_std.unflatten(0, z.shape[:2]))


def _held(z: Tensor, log_q_gradient: LogQGradient) -> Tensor:
    """Return z, detached if only the score is differentiated."""
    return z.detach() if log_q_gradient is LogQGradient.SCORE else z


def _by_prior_noise(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return z reparameterized by p: mean + exp(log_std) eps with the eps that gives z.

    The step exp(log_std) eps is computed as z - mean, without exp(-log_std), which may overflow.
    """
    return mean + (z - mean).detach() * torch.exp(log_std - log_std.detach())
