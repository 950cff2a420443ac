"""Evaluation of a run on data other than its own."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from ...data import ImageData
from ...data.rows import fingerprint
from ...models import LatentVariableModel
from ...seeds import Purpose, derive_seed
from ..processes import ALONE, Processes
from ..train.checkpoint import Checkpoint
from ..train.fixed_pixels import TEST_PIXELS_SEED
from ..train.pixels import as_pixels, subset_order
from ..train.runs import Run
from .evaluations import keep_evaluation
from .per_observation import PerObservation
from .results import Estimates, Progress, mean_std_error, provenance


def evaluate_other(
    run: Run,
    checkpoint: Checkpoint,
    model: LatentVariableModel,
    data: ImageData,
    *,
    k: int,
    observations: int | None = None,
    chunk_size: int | None = None,
    progress: Progress = lambda _name, _pairs: lambda _: None,
    command: str | None = None,
    processes: Processes = ALONE,
) -> tuple[dict[str, Any], Path]:
    """Estimate the likelihood of observations other than a run's, with results per row in the order of their file.

    The results are stored among the run's evaluations under the name of the file, and are never used as an evaluation
    on the run's own data. The caller must hold :func:`.runs.sole_evaluator`. An interrupted evaluation resumes when
    this is called again with the same arguments.

    Args:
        run, checkpoint, model: the run to evaluate, with its model on the device to use.
        data: the data, whose test part is evaluated.
        k: samples per observation.
        observations: size of a random subset, always the same; all observations if None.
        chunk_size: samples evaluated at once.
        progress: callback for progress.
        command: the current command line, stored with the results.
        processes: the processes that evaluate together and all call this. The first one stores the results.

    Returns the numbers, with likelihoods in nats, and the path of the .npz file with the results per row. Raises
    ValueError if the observations do not have the width of the run's.
    """
    if data.test.shape[1] != checkpoint.data_dim:
        raise ValueError(
            f"{data.name} has observations of {data.test.shape[1]} numbers, expected the run's {checkpoint.data_dim}"
        )
    started = time.perf_counter()
    rows = subset_order(len(data.test))[:observations].sort().values
    device = next(model.parameters()).device
    x = as_pixels(data.test, data.grey_levels, TEST_PIXELS_SEED, Purpose.TEST_PIXELS, rows=rows).to(device)
    images, seed = fingerprint(x), derive_seed(checkpoint.config.seed, Purpose.EVALUATION)
    name = "other-" + re.sub(r"[^A-Za-z0-9_.]+", "_", Path(data.name).stem)
    estimates = Estimates(run, checkpoint.step, data, k, chunk_size, progress, processes)
    found = estimates("observations", model, x, seed, f"{name}-{images[:8]}")
    content = {
        "nll": -found.mean,
        "std_error": mean_std_error(found.value),
        "ess": found.ess.mean().item(),
        "k": k,
        "dataset": data.name,
        "source": data.source,
        "observations": len(x),
        "test_observations": len(data.test),
        "seed": seed,
        "test_pixels_seed": TEST_PIXELS_SEED,
        "own": False,
        "images": images,
        "step": checkpoint.step,
        **provenance(model, x, started, command),
    }
    results = PerObservation.of(found, images, rows)
    path = processes.from_first(lambda: keep_evaluation(run, content, results, name))
    estimates.forget()
    return content, path.with_suffix(".npz")
