"""Reparameterized Gaussian samples, with noise that is a function of (seed, index)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import checks, reference
from ..backends import REFERENCE, choose
from ..deprecation import renamed_keywords
from .function import Fused, applied, backward_pass, implementation, saved


@renamed_keywords(samples="sample_indices")
def sample_gaussian(
    mean: Tensor,
    log_std: Tensor,
    num_samples: int,
    seed: int | Tensor | None = None,
    path_only: bool = False,
    *,
    sample_indices: Tensor | None = None,
    sample_offset: int = 0,
    observation_offset: int = 0,
    stream: int = 0,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw reparameterized z ~ N(mean, exp(log_std)^2), and compute log p(z) - log q(z | x) for p = N(0, I).

    z = m + s eps, and log p(z) - log q(z | x) = 1/2 sum_d [eps^2 - z^2 + 2 log s] (Kingma & Welling 2014).

    Args:
        mean, log_std: (B, Z), of the same shape.
        num_samples: k >= 1.
        seed: an int, or an int64 scalar tensor on the device of ``mean``; drawn from torch's generator if None. On
            every backend, the noise of an entry depends only on the seed, the stream and its indices.
        path_only: if True, detach mean and log_std inside log q, but not in z, as needed by the sticking-the-landing
            (Roeder et al. 2017) and doubly reparameterized (Tucker et al. 2019) estimators.
        sample_indices: int64 (k, B) of any strides, on the device of ``mean``: the global index of the sample whose
            noise each entry gets, in place of sample_offset + 0, ..., k - 1. With it, selected samples of each
            observation can be drawn again, bit for bit. Indices must be in [0, 2^32). This is not checked, since it
            would force a device synchronization; the noise at other indices is unspecified.
        sample_offset, observation_offset: global indices of the first sample and observation, so that chunks and
            shards draw the same noise as the whole batch.
        stream: index of an independent array of noise, for example one per latent layer.
        backend: force a backend by name.

    Returns:
        z of shape (k, B, Z), and the log-ratio in nats of shape (k, B), float32 or float64. A decoder that takes rows,
        such as a convolutional one, is called as ``decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])``.

    Raises:
        TypeError: a type or dtype differs from those above.
        ValueError: a shape, device or number is invalid, or both ``sample_indices`` and ``sample_offset`` are given.
    """
    checks.floating(mean=mean, log_std=log_std)
    checks.positive("num_samples", num_samples)
    if mean.dim() != 2 or mean.shape != log_std.shape:
        raise ValueError(f"mean and log_std must both be (B, Z), got {tuple(mean.shape)} and {tuple(log_std.shape)}")
    _check_index("sample_offset", sample_offset, num_samples)
    _check_index("observation_offset", observation_offset, mean.shape[0])
    _check_index("stream", stream, 1)
    checks.sample_indices(sample_indices, (num_samples, mean.shape[0]), mean.device, sample_offset)
    seed = seed_tensor(seed, mean.device)
    indices = (sample_offset, observation_offset, stream)
    chosen = choose(backend, (mean, log_std, seed, sample_indices), "sample_gaussian")
    if chosen == REFERENCE:
        return reference.sample_gaussian(mean, log_std, num_samples, seed, *indices, path_only, sample_indices)
    return applied(SampleGaussian)(chosen, mean, log_std, seed, sample_indices, num_samples, indices, path_only)


@renamed_keywords(samples="sample_indices")
def standard_normal(
    shape: tuple[int, int, int],
    seed: int | Tensor | None = None,
    *,
    sample_indices: Tensor | None = None,
    sample_offset: int = 0,
    observation_offset: int = 0,
    stream: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    backend: str | None = None,
) -> Tensor:
    """Draw standard normal noise of shape (samples, observations, dimensions) by Philox4x32-10 and Box-Muller.

    The arguments are those of :func:`sample_gaussian`; ``dtype`` is float32 or float64, and all indices must fit 32
    bits.
    """
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype must be float32 or float64, got {dtype}")
    if len(shape) != 3 or min(shape) < 0:
        raise ValueError(f"shape must be (samples, observations, dimensions), got {tuple(shape)}")
    _check_index("sample_offset", sample_offset, shape[0])
    _check_index("observation_offset", observation_offset, shape[1])
    _check_index("stream", stream, 1)
    seed = seed_tensor(seed, torch.device(device))
    checks.sample_indices(sample_indices, (shape[0], shape[1]), seed.device, sample_offset)
    chosen = choose(backend, (seed, sample_indices), "standard_normal")
    indices = (sample_offset, observation_offset, stream)
    if chosen == REFERENCE:
        return reference.standard_normal(seed, shape, *indices, dtype, sample_indices)
    return implementation(chosen).standard_normal(seed, sample_indices, list(shape), *indices, dtype)


class SampleGaussian(Fused):
    """The Function of :func:`sample_gaussian`."""

    @staticmethod
    def forward(
        backend: str,
        mean: Tensor,
        log_std: Tensor,
        seed: Tensor,
        samples: Tensor | None,
        num_samples: int,
        indices: tuple[int, int, int],
        path_only: bool,
    ) -> tuple[Tensor, Tensor]:
        return implementation(backend).sample_gaussian(mean, log_std, seed, samples, num_samples, *indices)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.backend, mean, log_std, seed, samples, ctx.num_samples, ctx.indices, ctx.path_only = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(mean, log_std, seed, samples)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_log_ratio: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_z is None and grad_log_ratio is None:
            return (None,) * 8
        arguments = (*saved(ctx), ctx.num_samples, *ctx.indices, ctx.path_only, ctx.backend)
        grad_mean, grad_log_std = backward_pass(
            "sample_gaussian", _sample_gaussian_backward, (grad_z, grad_log_ratio), *arguments
        )
        return None, grad_mean, grad_log_std, None, None, None, None, None


def _sample_gaussian_backward(
    grad_z: Tensor | None, grad_log_ratio: Tensor | None, *arguments: Any
) -> Sequence[Tensor]:
    *others, backend = arguments
    return implementation(backend).sample_gaussian_backward(grad_z, grad_log_ratio, *others)


def _check_index(name: str, first: int, count: int) -> None:
    """Raise ValueError unless all indices fit the 32-bit words of the counter."""
    if first < 0 or first + count > 2**32:
        raise ValueError(f"{name} must be in [0, 2^32 - {count}], got {first}")


def seed_tensor(seed: int | Tensor | None, device: torch.device) -> Tensor:
    """Return a seed as an int64 scalar tensor on the device; draw it from torch's generator if None."""
    if seed is None:
        return torch.randint(2**63 - 1, (), device=device)
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.dim() != 0:
            raise TypeError(f"seed must be an int64 scalar tensor, got {seed.dtype} of shape {tuple(seed.shape)}")
        if seed.device.type != device.type or (None not in (seed.device.index, device.index) and seed.device != device):
            raise ValueError(f"seed is on {seed.device}, but the noise is to be on {device}")
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an int, an int64 scalar tensor or None, got {type(seed).__name__}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be in [0, 2^63), got {seed}")
    return torch.full((), seed, dtype=torch.int64, device=device)  # torch.tensor would synchronize


def seed_number(seed: int | Tensor | None) -> int:
    """Return a seed as a number; from torch's generator if None. A tensor's device is synchronized."""
    return int(seed_tensor(seed, seed.device if isinstance(seed, Tensor) else torch.device("cpu")))
