"""What a run leaves behind once it is trained: the test likelihood and pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import evaluate, plots
from ._version import __version__
from .checkpoint import Checkpoint
from .data import ImageData, binarize
from .diagnostics import FEWEST_SAMPLES
from .files import replace_file, write_json
from .metrics import read_metrics
from .models import DenseVAE
from .runs import Run
from .seeds import Purpose, derive_seed, generator

TEST_PIXELS_SEED = 0
"""The same for every run, so that all are evaluated on the same binary images."""

RECONSTRUCTIONS = 12


def binary_test_set(data: ImageData) -> Tensor:
    """The test images (M, D) as zeros and ones, always the same draw."""
    return binarize(data.test, generator(TEST_PIXELS_SEED, Purpose.TEST_PIXELS))


def evaluate_run(
    run: Run,
    checkpoint: Checkpoint,
    model: DenseVAE,
    data: ImageData,
    *,
    k: int,
    observations: int | None = None,
    chunk_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Estimate the negative log-likelihood of the test set and write it to ``evaluation.json``.

    Args:
        run, checkpoint, model: what is evaluated, the model on its device.
        data: the run's data set.
        k: samples of each observation.
        observations: only this many of the test set, from its beginning; all if None.
        chunk_size: samples evaluated at once; changes the result by rounding only.
        progress: called with the number of (sample, observation) pairs just evaluated.

    Returns the content of the file, likelihoods in nats.
    """
    device = next(model.parameters()).device
    x = binary_test_set(data)[:observations].to(device)
    seed = derive_seed(checkpoint.config.seed, Purpose.EVALUATION)
    started = time.perf_counter()
    journal = run.journal(checkpoint.step, k, len(x))
    result = evaluate.log_likelihood(model, x, k, chunk_size, seed, progress=progress, journal=journal)
    content = {
        "nll": -result.mean,
        "std_error": _finite(result.mean_std_error),
        "monte_carlo_std_error": _finite(result.std_error.square().sum().sqrt().item() / len(x)),
        "ess": result.ess.mean().item(),
        "pareto_k_above_0.7": None if k < FEWEST_SAMPLES else (result.pareto_k > 0.7).double().mean().item(),
        "k": k,
        "dataset": data.name,
        "observations": len(x),
        "test_observations": len(data.test),
        "seed": seed,
        "test_pixels_seed": TEST_PIXELS_SEED,
        "step": checkpoint.step,
        "seconds": time.perf_counter() - started,
        "device": str(device),
        "version": __version__,
    }
    write_json(run.evaluation, content)
    journal.unlink(missing_ok=True)
    return content


def draw_loss_curve(run: Run, checkpoint: Checkpoint) -> None:
    """Write ``loss-curve.png`` from ``metrics.csv``."""
    config = checkpoint.config
    title = f"{config.dataset}: {config.bound.upper()}, k = {config.k}"
    replace_file(run.loss_curve, plots.training_curves(read_metrics(run.metrics), title, config.k))


def draw_reconstructions(run: Run, model: DenseVAE, data: ImageData) -> None:
    """Write ``reconstructions.png``: binary test images above the mean of p(x | z) at the posterior mean of z."""
    device = next(model.parameters()).device
    originals = binary_test_set(data)[:RECONSTRUCTIONS].to(device)
    rows = torch.stack((originals, model.reconstruct(originals))).unflatten(-1, data.image_shape)
    replace_file(run.reconstructions, plots.image_grid(rows.cpu().numpy(), labels=("test images", "reconstructions")))


def draw_samples(path: Path, checkpoint: Checkpoint, model: DenseVAE, rows: int, columns: int, seed: int) -> None:
    """Write a PNG of samples: the mean of p(x | z) for z from the prior."""
    images = model.sample(rows * columns, derive_seed(seed, Purpose.SAMPLES))
    grid = images.reshape(rows, columns, *checkpoint.image_shape)
    replace_file(path, plots.image_grid(grid.cpu().numpy()))


def _finite(value: float) -> float | None:
    """JSON knows no NaN, which a standard error from a single observation or sample is."""
    return value if math.isfinite(value) else None
