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
from ..ops.densities import gaussian_log_prob, standard_gaussian_log_prob
from ..ops.samples import sample_gaussian, seed_tensor, standard_normal
from ..reference import widen
from ..seeds import torch_seeded
from .base import Draw, Latents, LatentVariableModel, LogQGradient, Posterior, RouteZ, as_posterior
from .posteriors import SampledPosterior, posterior_of
from .priors import VampPrior, as_prior, region_of_prior
from .supports import REAL
from .supports import check as check_supports


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
        backend: str | None = None,
    ) -> None:
        super().__init__(encoder, decoder, likelihood, backend)
        self.upper = nn.ModuleList(UpperLayer(*modules) for modules in upper)
        self.prior = as_prior(prior)
        self.latent_dim = latent_dim
        self.has_conditional_priors = bool(upper)

    def posterior(self, output: Any) -> Posterior:
        """Return mean and log standard deviation of q(z_1 | x), each (B, Z), or a distribution that is not Gaussian."""
        posterior = posterior_of(output) if isinstance(output, Distribution) else _gaussian("encoder", output)
        if not self.upper:
            first = posterior[0]
            self._learn_size_of_z(first.size if isinstance(first, SampledPosterior) else first.shape[-1])
        return posterior

    def latents(
        self,
        posterior: Posterior,
        draw: Draw,
        log_q_gradient: LogQGradient = LogQGradient.FULL,
        route: RouteZ | None = None,
    ) -> Latents:
        if self.upper or self.prior is not None or isinstance(posterior[0], SampledPosterior):
            return self._in_parts(posterior, draw, log_q_gradient, route)
        z, log_ratio = self._one_layer(posterior, draw, log_q_gradient)
        if route is not None:
            z, _, _ = route(z)
        return Latents(z, None, log_ratio)

    def _one_layer(self, posterior: Posterior, draw: Draw, log_q_gradient: LogQGradient) -> tuple[Tensor, Tensor]:
        """Draw z and compute log p(z) - log q(z | x), fused."""
        mean, log_std = posterior
        if log_q_gradient is LogQGradient.SCORE:
            z, _ = self._sample(mean.detach(), log_std.detach(), draw, path_only=False)
            log_q = gaussian_log_prob(z, mean, log_std, backend=self.backend)
            return z, standard_gaussian_log_prob(z, backend=self.backend) - log_q
        return self._sample(mean, log_std, draw, path_only=log_q_gradient is LogQGradient.PATHWISE)

    def _sample(self, mean: Tensor, log_std: Tensor, draw: Draw, path_only: bool) -> tuple[Tensor, Tensor]:
        seed, num_samples, sample_offset, observation_offset, samples = draw
        return sample_gaussian(
            mean,
            log_std,
            num_samples,
            seed,
            path_only,
            sample_offset=sample_offset,
            observation_offset=observation_offset,
            sample_indices=samples,
            backend=self.backend,
        )

    def _in_parts(
        self, posterior: Posterior, draw: Draw, log_q_gradient: LogQGradient, route: RouteZ | None
    ) -> Latents:
        """Return z_1 and the two parts of the log-ratio: first the sum of log p(z_l | z_{l+1}), with log p(z_L) of a
        prior other than N(0, I); second the rest, log p(z_L) of N(0, I) if that is the prior, minus log q(z | x)."""
        self._check_supports(posterior)
        latents, conditionals = self._ascend(posterior, draw, log_q_gradient)
        as_parents, as_children, inside_q = self._descend(latents, route)
        log_q = self._log_first_q(inside_q[0], posterior, log_q_gradient)
        log_prior = torch.zeros_like(log_q)
        for layer, conditional, parent, child, below, above in zip(
            self.upper, conditionals, as_parents[1:], as_children, inside_q, inside_q[1:], strict=False
        ):
            if log_q_gradient is LogQGradient.PATHWISE:
                # As the condition z keeps its gradient; only the weights are held fixed.
                conditional = _by_row(layer.encoder, below, frozen=True)
            log_q = log_q + self._log_prob(above, *conditional)
            prior = _by_row(layer.prior, parent, frozen=route is not None and route.reparameterize_prior)
            log_prior = log_prior + self._log_prob(child, *prior)
        if self.prior is not None:
            return Latents(as_parents[0], log_prior + self._log_top_prior(as_children[-1]), -log_q)
        top = standard_gaussian_log_prob(inside_q[-1], backend=self.backend)
        return Latents(as_parents[0], log_prior, top - log_q)

    def _check_supports(self, posterior: Posterior) -> None:
        """Raise ValueError if a prior is known to have a different support than the q of its layer."""
        region = posterior[0].region if isinstance(posterior[0], SampledPosterior) else REAL
        if self.upper:  # p between the layers and q above the first one are Gaussian
            check_supports(region, REAL)
            region = REAL
        check_supports(region, region_of_prior(self.prior))

    def _log_first_q(self, z: Tensor, posterior: Posterior, log_q_gradient: LogQGradient) -> Tensor:
        """Return log q(z_1 | x), (k, B)."""
        first = posterior[0]
        if not isinstance(first, SampledPosterior):
            return self._log_prob(z, *_held(posterior, log_q_gradient))
        if log_q_gradient is LogQGradient.PATHWISE:
            raise ValueError(
                "the estimator holds the parameters of log q(z | x) fixed, which is not possible for the encoder's "
                f"{type(first.distribution).__name__}: use 'reparameterized' or 'rws', or return (mean, log_std)"
            )
        if log_q_gradient is LogQGradient.FULL and torch.is_grad_enabled() and not first.has_path:
            raise ValueError(
                f"no gradient flows through draws of the encoder's {type(first.distribution).__name__}, which does not "
                "have rsample: use 'vimco' or 'rws'"
            )
        return first.log_prob(z)

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

    def _encode_top(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation of q of the topmost layer for an input of its encoder."""
        if self.upper:
            layer: Any = self.upper[-1]
            return _gaussian("module of an upper layer", layer.encoder(value))
        posterior = self.encode(value)
        if isinstance(posterior[0], SampledPosterior):
            raise ValueError("VampPrior needs a Gaussian encoder: one that returns (mean, log_std)")
        return posterior[0], posterior[1]

    def _ascend(
        self, posterior: Posterior, draw: Draw, log_q_gradient: LogQGradient
    ) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Draw z_1 .. z_L from q, (k, B, Z_l) each, and return them with the parameters of q(z_{l+1} | z_l)."""
        latents: list[Tensor] = []
        conditionals: list[tuple[Tensor, Tensor]] = []
        for stream in range(len(self.upper) + 1):
            parameters = posterior
            if stream:
                parameters = _by_row(self.upper[stream - 1].encoder, latents[-1])
                conditionals.append(parameters)
            z = self._draw(parameters, draw, stream)
            latents.append(z.detach() if log_q_gradient is LogQGradient.SCORE else z)
        self._learn_size_of_z(latents[-1].shape[-1])
        return latents, conditionals

    def _draw(self, parameters: Posterior, draw: Draw, stream: int) -> Tensor:
        if isinstance(parameters[0], SampledPosterior):
            return parameters[0].draw(draw)
        mean, log_std = parameters
        return mean + torch.exp(log_std) * self._noise(draw, mean, stream)

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

    def _noise(self, draw: Draw, mean: Tensor, stream: int) -> Tensor:
        seed, num_samples, sample_offset, observation_offset, samples = draw
        return standard_normal(
            (num_samples, *mean.shape[-2:]),
            seed,
            sample_offset=sample_offset,
            observation_offset=observation_offset,
            sample_indices=samples,
            stream=stream,
            dtype=torch.float64 if mean.dtype == torch.float64 else torch.float32,
            device=mean.device,
            backend=self.backend,
        )

    def _log_prob(self, z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        return gaussian_log_prob(z, mean, log_std, backend=self.backend)

    def kl_by_dimension(self, posterior: Posterior) -> Tensor:
        if self.upper or self.prior is not None or isinstance(posterior[0], SampledPosterior):
            return super().kl_by_dimension(posterior)
        mean, log_std = widen(*as_posterior(posterior))
        return 0.5 * (mean.square() + torch.exp(2.0 * log_std) - 1.0) - log_std

    def mean_of(self, posterior: Posterior) -> Tensor:
        first = posterior[0]
        return first.mean if isinstance(first, SampledPosterior) else first

    def layer_means(self, posterior: Posterior, draw: Draw) -> tuple[Tensor, ...]:
        first = super().layer_means(posterior, draw)
        if not self.upper:
            return first
        _, conditionals = self._ascend(posterior, draw, LogQGradient.SCORE)
        return (*first, *(mean for mean, _ in conditionals))

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


def _gaussian(name: str, output: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(output, tuple) or len(output) != 2:
        raise TypeError(f"the {name} must return (mean, log_std), got {type(output).__name__}")
    return output


def _by_row(module: Any, z: Tensor, *, frozen: bool = False) -> tuple[Tensor, Tensor]:
    """Apply a module that takes rows of latents to z (k, B, Z), and return (mean, log_std), each (k, B, Z').

    If ``frozen``, the parameters of the module are detached.
    """
    rows = as_parameters(module, z.flatten(0, 1))
    if frozen:
        fixed = {name: parameter.detach() for name, parameter in module.named_parameters()}
        output = functional_call(module, fixed, (rows,))
    else:
        output = module(rows)
    mean, log_std = _gaussian("module of an upper layer", output)
    return mean.unflatten(0, z.shape[:2]), log_std.unflatten(0, z.shape[:2])


def _held(posterior: Posterior, log_q_gradient: LogQGradient) -> Posterior:
    """Return the parameters of q(z_1 | x), detached for pathwise estimators."""
    return tuple(part.detach() for part in posterior) if log_q_gradient is LogQGradient.PATHWISE else posterior


def _by_prior_noise(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return z reparameterized by p: mean + exp(log_std) eps with the eps that gives z.

    The step exp(log_std) eps is computed as z - mean, without exp(-log_std), which may overflow.
    """
    return mean + (z - mean).detach() * torch.exp(log_std - log_std.detach())
