"""log p(x) of a batch with k = 5000: a plain loop over chunks, this package, and the decoder's matrix products alone.

The loop and the matrix products try several chunk sizes during preparation, and use the fastest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor, nn

import iwae_fast as iw

from . import agreement
from .images import mnist
from .networks import Setting, networks, observations, vae
from .ops import backends
from .rivals.eager import log_weights
from .work import BASELINE, Check, Evidence, Provider, Task, Work

EVALUATIONS = 12
CHUNKS = (10, 25, 50, 100, 200, 400)
"""Numbers of samples per observation that are processed at once."""

LARGE_CHUNK = 1000
"""Samples processed at once for each of the 256 observations of an evaluation's chunk: enough rows to fill a GPU."""

FEW = 20


def works(setting: Setting) -> list[Work]:
    check = Check(partial(truth, setting), agreement.differing_means)
    providers = (
        Provider(BASELINE, partial(eager, setting), check),
        Provider("iwae_fast", partial(ours, setting), check, "ours", "iwae_fast"),
        Provider("matrix products alone", partial(matrix_products, setting), None, "bound"),
    )
    return [Work("evaluation", "forward", str(setting), providers, k=setting.k)]


def eager(setting: Setting) -> Task:
    encoder, decoder, _ = networks(setting)
    x = observations(setting)
    return fastest(partial(log_likelihood, encoder, decoder, x), setting.k)


def test_set_works(setting: Setting) -> list[Work]:
    """Return the GPU workload: a whole test set of the setting's batch size, in the default chunks and in larger ones.

    The mean over a few images is checked against the reference.
    """
    images, source = test_set(setting)
    few = images[:FEW]
    check = Check(partial(truth, setting, few), agreement.differing_means)
    providers = []
    for name in backends(setting.device):
        for chunk in (None, LARGE_CHUNK):
            run = partial(our_test_set, vae(setting, name), setting.k, chunk)
            task = Task(partial(run, images), partial(means, partial(run, few)), source)
            label = f"iwae_fast {name}" + ("" if chunk is None else f", chunk_size={chunk}")
            providers.append(Provider(label, partial(given, task), check, "ours", "iwae_fast"))
    return [Work("evaluation", "forward", str(setting), tuple(providers), setting.k, device=setting.device, whole=True)]


def given(task: Task) -> Task:
    return task


def test_set(setting: Setting) -> tuple[Tensor, str]:
    """Return as many images as the setting's batch on its device, and their name.

    They are MNIST's if its files are present and have the setting's number of features, otherwise random pixels, which
    take equally long.
    """
    found = mnist()
    if found is None or found.test.shape[1] != setting.features:
        return observations(setting), "random pixels"
    return (found.test[: setting.batch] > 0.5).float().to(setting.device), "MNIST"


def our_test_set(model: iw.models.VAE, k: int, chunk: int | None, images: Tensor) -> Tensor:
    return iw.evaluate.log_likelihood(model, images, k, chunk).value


@torch.no_grad()
def log_likelihood(encoder: nn.Module, decoder: nn.Module, x: Tensor, k: int, chunk: int) -> Tensor:
    """Compute log p(x), (B,), by the usual loop over chunks."""
    mean, log_std = encoder(x)
    found = [
        torch.logsumexp(log_weights(decoder, mean, log_std, x, min(chunk, k - first)), 0)
        for first in range(0, k, chunk)
    ]
    return torch.logsumexp(torch.stack(found), 0) - math.log(k)


def ours(setting: Setting) -> Task:
    model, x = vae(setting), observations(setting)

    def run() -> Tensor:
        return iw.evaluate.log_likelihood(model, x, setting.k).value

    return Task(run, partial(means, run))


@cache
def truth(setting: Setting, images: Tensor | None = None) -> Evidence:
    """Compute the reference result in float64, in chunks to save memory."""
    model = vae(setting, backend="reference").double()
    x = (observations(setting) if images is None else images).double()
    chunk = 50

    @torch.no_grad()
    def run() -> Tensor:
        found = [model.log_weights(x, min(chunk, setting.k - first)) for first in range(0, setting.k, chunk)]
        return torch.logsumexp(torch.cat(found), 0) - math.log(setting.k)

    torch.manual_seed(2)
    return means(run)


def matrix_products(setting: Setting) -> Task:
    """Prepare the decoder's matrix products alone, on rows of latents, into preallocated tensors."""
    _, decoder, _ = networks(setting)
    matrices = [layer.weight.detach().T for layer in decoder.modules() if isinstance(layer, nn.Linear)]

    def run(k: int, chunk: int) -> Tensor:
        rows = [torch.empty(chunk * setting.batch, size) for size in (setting.latents, *(m.shape[1] for m in matrices))]
        rows[0].normal_()
        for _ in range(math.ceil(k / chunk)):
            for matrix, before, after in zip(matrices, rows, rows[1:], strict=False):
                torch.mm(before, matrix, out=after)
        return rows[-1]

    return fastest(run, setting.k)


def fastest(run: Callable[[int, int], Tensor], k: int) -> Task:
    """Return a task of k samples, in chunks of the size that was fastest in a short trial."""
    trial = min(k, 2 * max(CHUNKS))

    def seconds(chunk: int) -> float:
        run(trial, chunk)
        found = []
        for _ in range(3):
            start = time.perf_counter()
            run(trial, chunk)
            found.append(time.perf_counter() - start)
        return min(found)

    chunk = min((c for c in CHUNKS if c <= k), key=seconds)
    task = partial(run, k, chunk)
    return Task(task, partial(means, task), f"chunks of {chunk} samples")


def means(run: Callable[[], Tensor]) -> Evidence:
    """Compute the mean over the observations, for repeated evaluations."""
    return {"log p(x)": np.array([run().mean().item() for _ in range(EVALUATIONS)])}
