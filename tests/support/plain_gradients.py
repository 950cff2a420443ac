"""Every estimator's gradient by its definition: with torch's densities, one sample at a time, and with two copies of
the model where the parameters inside a density must be held fixed."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

import iwae_fast as iw
from iwae_fast.bounds import Bound
from iwae_fast.ops.samples import seed_tensor

Model = iw.models.LatentVariableModel
Latents = list[Tensor]


def normal(z: Tensor, parameters: tuple[Tensor, Tensor]) -> Tensor:
    mean, log_std = parameters
    return torch.distributions.Normal(mean, log_std.exp()).log_prob(z).sum(-1)


def bernoulli(z: Tensor, logits: Tensor) -> Tensor:
    return torch.distributions.Bernoulli(logits=logits).log_prob(z).sum(-1)


def log_likelihood(model: Model, x: Tensor, zs: Latents) -> Tensor:
    output = model.decoder(zs[0])
    return normal(x, output) if isinstance(output, tuple) else bernoulli(x, output)


def log_prior(model: Model, zs: Latents) -> Tensor:
    if isinstance(model, iw.models.BernoulliVAE):
        return bernoulli(zs[0], model.prior_logits)
    total = log_top_prior(model, zs[-1])
    for layer, below, above in zip(model.upper, zs, zs[1:], strict=False):
        total = total + normal(below, layer.prior(above))
    return total


def log_top_prior(model: Model, z: Tensor) -> Tensor:
    if model.prior is None:
        return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    if isinstance(model.prior, iw.models.VampPrior):
        encoder = model.upper[-1].encoder if model.upper else model.encoder
        parameters = encoder(model.prior.pseudo_inputs)
        return torch.logsumexp(normal(z[:, None], parameters), -1) - math.log(len(parameters[0]))
    if isinstance(model.prior, iw.models.MixturePrior):
        by_component = normal(z[:, None], (model.prior.mean, model.prior.log_std))
        return torch.logsumexp(by_component + torch.log_softmax(model.prior.logits, 0), -1)
    return model.prior.log_prob(z)


def log_q(model: Model, x: Tensor, zs: Latents) -> Tensor:
    if isinstance(model, iw.models.BernoulliVAE):
        return bernoulli(zs[0], model.encoder(x))
    total = normal(zs[0], model.encoder(x))
    for layer, below, above in zip(model.upper, zs, zs[1:], strict=False):
        total = total + normal(above, layer.encoder(below))
    return total


def noises(model: Model, x: Tensor, k: int, seed: int) -> list[Tensor]:
    if isinstance(model, iw.models.BernoulliVAE):
        return [iw.standard_normal((k, len(x), model.latent_dim), seed)]
    sizes = [model.encoder(x)[0].shape[1]]
    for layer in model.upper:
        sizes.append(layer.encoder(torch.zeros(1, sizes[-1], dtype=x.dtype))[0].shape[1])
    return [iw.standard_normal((k, len(x), s), seed, stream=i, dtype=torch.float64) for i, s in enumerate(sizes)]


def draw(model: Model, x: Tensor, eps: list[Tensor]) -> Latents:
    """Compute z of each layer, (B, Z_l), from its noise."""
    if isinstance(model, iw.models.BernoulliVAE):
        return [(torch.special.ndtr(eps[0]) < model.encoder(x).sigmoid()).to(x.dtype)]
    mean, log_std = model.encoder(x)
    zs = [mean + log_std.exp() * eps[0]]
    for layer, noise in zip(model.upper, eps[1:], strict=True):
        mean, log_std = layer.encoder(zs[-1])
        zs.append(mean + log_std.exp() * noise)
    return zs


def encoder_parameters(model: Model) -> list[Tensor]:
    return [
        *model.encoder.parameters(),
        *(p for layer in getattr(model, "upper", ()) for p in layer.encoder.parameters()),
    ]


def prior_parameters(model: Model) -> list[Tensor]:
    if isinstance(model, iw.models.BernoulliVAE):
        return [model.prior_logits]
    top = [] if model.prior is None else list(model.prior.parameters())
    return [*(p for layer in model.upper for p in layer.prior.parameters()), *top]


def vimco_signal(log_weights: Tensor) -> Tensor:
    """Compute L - b_i by Mnih & Rezende's definition: in b_i, log w_i is replaced by the mean of the others."""
    k = len(log_weights)
    value = torch.logsumexp(log_weights, 0) - math.log(k)
    signals = []
    for i in range(k):
        replaced = log_weights.clone()
        replaced[i] = log_weights[[j for j in range(k) if j != i]].mean(0)
        signals.append(value - (torch.logsumexp(replaced, 0) - math.log(k)))
    return torch.stack(signals)


def gradients(
    bound: Bound, estimator: str, k: int, model: Model, x: Tensor, seed: int, kl_weight: float = 1.0
) -> list[Tensor]:
    """Compute the gradient of the loss, the negated mean over observations, in the order of model.parameters()."""
    bound, k = bound.for_call(k, seed_tensor(seed, x.device))
    frozen = copy.deepcopy(model).requires_grad_(False)
    eps = noises(model, x, k, seed)

    def log_weight(densities: Model, zs: Latents) -> Tensor:
        ratio = log_prior(densities, zs) - log_q(densities, x, zs)
        return log_likelihood(densities, x, zs) + kl_weight * ratio

    samples = [[e[i] for e in eps] for i in range(k)]
    log_weights = torch.stack([log_weight(frozen, draw(frozen, x, noise)) for noise in samples])
    w = torch.softmax(log_weights, 0)
    g = bound.for_decoder.coefficients(log_weights).g
    encoder = bound.for_encoder.coefficients(log_weights)
    path, score = {
        "reparameterized": (encoder.g, -kl_weight * encoder.g),
        "stl": (encoder.g, 0 * w),
        "dreg": (encoder.g - kl_weight * encoder.D, 0 * w),
        "gdreg": (encoder.g - kl_weight * encoder.D, 0 * w),
        "aisle-kl": (w, 0 * w),
        "aisle-chi2": (2 * k * w**2, 0 * w),
        "rws": (0 * w, w),
        "rws-dreg": (w - w**2, 0 * w),
        "vimco": (0 * w, vimco_signal(log_weights) - w if k > 1 else 0 * w),
    }[estimator]

    ascent: list[tuple[Tensor, list[Tensor]]] = []  # what is maximized, and by which parameters
    phi, theta, prior = encoder_parameters(model), list(model.decoder.parameters()), prior_parameters(model)
    for i, noise in enumerate(samples):
        fixed = [z.detach() for z in draw(model, x, noise)]
        if model.reparameterized:
            ascent.append((path[i] * log_weight(frozen, draw(model, x, noise)), phi))
        ascent.append((score[i] * log_q(model, x, fixed), phi))
        ascent.append((g[i] * log_likelihood(model, x, fixed), theta))
        if estimator == "gdreg":
            for index, layer in enumerate(model.upper):
                zs = [z.clone().requires_grad_() for z in fixed]
                children = log_likelihood(frozen, x, zs)
                if index:
                    children = kl_weight * normal(zs[index - 1], frozen.upper[index - 1].prior(zs[index]))
                (grad_children,) = torch.autograd.grad((g[i] * children).sum(), zs[index])
                (grad_weight,) = torch.autograd.grad((path[i] * log_weight(frozen, zs)).sum(), zs[index])
                mean, log_std = layer.prior(fixed[index + 1])
                prior_noise = ((fixed[index] - mean) / log_std.exp()).detach()
                again = mean + log_std.exp() * prior_noise
                ascent.append(((grad_children - grad_weight) * again, prior))
            if model.prior is not None:
                ascent.append((g[i] * kl_weight * log_top_prior(model, fixed[-1]), prior))
        elif prior:
            ascent.append((g[i] * kl_weight * log_prior(model, fixed), prior))
        if isinstance(getattr(model, "prior", None), iw.models.VampPrior):  # its density uses the encoder
            ascent.append((g[i] * kl_weight * log_top_prior(model, fixed[-1]), phi))
    found = {}
    for parameters in (phi, theta, prior):
        total = sum(scaled.sum() for scaled, of in ascent if of is parameters)
        if parameters:
            found.update(
                zip(parameters, torch.autograd.grad(-total / len(x), parameters, allow_unused=True), strict=True)
            )
    return [torch.zeros_like(p) if found[p] is None else found[p] for p in model.parameters()]
