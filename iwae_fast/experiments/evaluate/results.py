"""Evaluation and pictures of a trained run."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ... import backends
from ..._version import __version__
from ...data import ImageData
from ...data.rows import fingerprint
from ...evaluate import LogLikelihood, activity
from ...evaluate import likelihood as evaluate
from ...evaluate.activity import Activity
from ...evaluate.diagnostics import FEWEST_SAMPLES
from ...evaluate.pruning import obstacle, without_units
from ...files import replace_file
from ...models import DenseVAE, LatentVariableModel
from ...seeds import Purpose, derive_seed
from ..defaults import OBSERVATIONS
from ..pictures import pictures
from ..processes import ALONE, Processes
from ..train.checkpoint import Checkpoint
from ..train.fixed_pixels import TEST_PIXELS_SEED, fixed_test_images, fixed_training_images
from ..train.pixels import subset_order
from ..train.position import Position
from ..train.run_data import check_own
from ..train.runs import Run
from . import machine
from .decomposition import decompose
from .evaluations import keep_evaluation
from .per_observation import PerObservation

TRAINING_NOISE, ACTIVITY_NOISE, DECOMPOSITION_NOISE = 1, 2, 3
"""Indices that derive the seeds of these estimates; the seed of the test likelihood is derived without an index."""

Progress = Callable[[str, int], Callable[[int], None]]
"""Callback at the start of an estimate, with its name and its number of (sample, observation) pairs, that returns a
function to be called with each number of pairs just evaluated."""


def evaluate_run(
    run: Run,
    checkpoint: Checkpoint,
    model: LatentVariableModel,
    data: ImageData,
    *,
    k: int,
    observations: int | None = None,
    train_observations: int = OBSERVATIONS,
    pruned_observations: int = OBSERVATIONS,
    chunk_size: int | None = None,
    progress: Progress = lambda _name, _pairs: lambda _: None,
    command: str | None = None,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Evaluate a run on its own data, and store the numbers and the results per test observation.

    The caller must hold :func:`.runs.sole_evaluator`; results are stored by :mod:`.evaluations`. An interrupted
    evaluation resumes when it is called again with the same arguments.

    Args:
        run, checkpoint, model: the run to evaluate, with its model on the device to use.
        data: the run's data set.
        k: samples per observation.
        observations: number of test observations, from the beginning of their fixed order; all if None.
        train_observations: number of training observations to evaluate too; 0 for none.
        pruned_observations: number of test observations on which to evaluate the model without its inactive units, if
            it has any; 0 for none.
        chunk_size: samples evaluated at once; changes the result by rounding only.
        progress: callback for progress.
        command: the current command line, stored with the results.
        processes: the processes that evaluate together and all call this. The first one stores the results.

    Returns the numbers, with likelihoods in nats. Raises CheckpointError if the data are not those with which the run
    was trained.
    """
    check_own(checkpoint, data, run.checkpoint)
    started = time.perf_counter()
    device = next(model.parameters()).device
    x = fixed_test_images(data, observations).to(device)
    images = fingerprint(x)
    estimates = Estimates(run, checkpoint.step, data, k, chunk_size, progress, processes)
    seed = derive_seed(checkpoint.config.seed, Purpose.EVALUATION)
    left_out: dict[str, str] = {}
    test = estimates("test images", model, x, seed)
    content: dict[str, Any] = {
        "nll": -test.mean,
        "std_error": mean_std_error(test.value),
        "monte_carlo_std_error": _finite(test.std_error.square().sum().sqrt().item() / len(x)),
        "ess": test.ess.mean().item(),
        "pareto_k_above_0.7": None if k < FEWEST_SAMPLES else (test.pareto_k > 0.7).double().mean().item(),
        "pareto_k_undefined": None if k < FEWEST_SAMPLES else int(test.pareto_k.isnan().sum()),
        "k": k,
        "dataset": data.name,
        "observations": len(x),
        "test_observations": len(data.test),
        "seed": seed,
        "test_pixels_seed": TEST_PIXELS_SEED,
        "own": True,
        "images": images,
        **Position.of(checkpoint, data).to_json(),
        "segments": [segment.to_json() for segment in checkpoint.segments],
    }
    if k < FEWEST_SAMPLES:
        left_out["pareto_k"] = f"fitting a tail needs at least {FEWEST_SAMPLES} samples, and k is {k}"
    noise = derive_seed(checkpoint.config.seed, Purpose.EVALUATION, DECOMPOSITION_NOISE)
    parts = decompose(model, x, noise, mask=data.mask(x))
    content |= {"reconstruction": parts.reconstruction, "divergence": parts.divergence}
    content |= _training(estimates, checkpoint, model, data, train_observations, left_out)
    found = processes.from_first(lambda: _activity(checkpoint, model, data, x, left_out))
    content |= _activity_numbers(found)
    content |= _active_units_only(estimates, model, x[:pruned_observations], seed, test, found, left_out)
    content |= {"left_out": left_out, **provenance(model, x, started, command)}
    rows = subset_order(len(data.test))[:observations]
    processes.from_first(lambda: keep_evaluation(run, content, PerObservation.of(test, images, rows)))
    estimates.forget()
    return content


def provenance(model: LatentVariableModel, x: Tensor, started: float, command: str | None) -> dict[str, Any]:
    """Return the time, machine and versions of an evaluation that began at ``started`` of :func:`time.perf_counter`."""
    return {
        "seconds": time.perf_counter() - started,
        "evaluated_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": command,
        "device": str(x.device),
        "backend": backends.choose(model.backend, (x,)),
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": machine.processor(),
        "threads": torch.get_num_threads(),
        "commit": machine.commit(),
    }


@dataclass
class Estimates:
    """Estimates of likelihoods, each with a journal that is kept until all are done."""

    run: Run
    step: int
    data: ImageData
    k: int
    chunk_size: int | None
    progress: Progress
    processes: Processes
    journals: list[Path] = field(default_factory=list)

    def __call__(
        self, shown: str, model: LatentVariableModel, x: Tensor, seed: int, name: str = "evaluation"
    ) -> LogLikelihood:
        """Estimate the likelihood of observations, shown under one name and with a journal of another one."""
        journal = self.run.journal(self.step, self.k, len(x), name)
        self.journals.append(journal)
        advance = self.progress(shown, self.k * len(x))
        return evaluate.log_likelihood(
            model,
            x,
            self.k,
            self.chunk_size,
            seed,
            mask=self.data.mask(x),
            progress=advance,
            journal=journal,
            mesh=self.processes.mesh,
        )

    def forget(self) -> None:
        """Delete the journals, those of an interrupted evaluation by another number of processes included."""
        self.processes.wait()
        if self.processes.is_first:
            for journal in self.journals:
                for path in (journal, *journal.parent.glob(f"{journal.stem}-*-of-*.npz")):
                    path.unlink(missing_ok=True)


def _training(
    estimates: Estimates,
    checkpoint: Checkpoint,
    model: LatentVariableModel,
    data: ImageData,
    observations: int,
    left_out: dict[str, str],
) -> dict[str, Any]:
    """Estimate the likelihood of training observations."""
    result = None
    if observations:
        x = fixed_training_images(data, checkpoint.config.validation, observations)
        x = x.to(next(model.parameters()).device)
        seed = derive_seed(checkpoint.config.seed, Purpose.EVALUATION, TRAINING_NOISE)
        result = estimates("training images", model, x, seed, "evaluation-training")
    else:
        left_out["train_nll"] = "not requested"
    return {
        "train_nll": None if result is None else -result.mean,
        "train_std_error": None if result is None else mean_std_error(result.value),
        "train_observations": 0 if result is None else len(result.value),
    }


def _activity(
    checkpoint: Checkpoint, model: LatentVariableModel, data: ImageData, x: Tensor, left_out: dict[str, str]
) -> Activity | None:
    if len(x) < 2:
        left_out["active_units"] = "a variance needs at least 2 observations"
        return None
    seed = derive_seed(checkpoint.config.seed, Purpose.EVALUATION, ACTIVITY_NOISE)
    return activity.active_units(model, x, mask=data.mask(x), seed=seed)


def _activity_numbers(found: Activity | None) -> dict[str, Any]:
    return {
        "active_units": None if found is None else list(found.counts),
        "units": None if found is None else list(found.sizes),
        "activity": None if found is None else [variance.tolist() for variance in found.variance],
        "activity_noise": None if found is None else [noise.tolist() for noise in found.noise],
        "activity_threshold": activity.THRESHOLD,
        "activity_samples": activity.NUM_SAMPLES,
    }


def _active_units_only(
    estimates: Estimates,
    model: LatentVariableModel,
    x: Tensor,
    seed: int,
    whole: LogLikelihood,
    found: Activity | None,
    left_out: dict[str, str],
) -> dict[str, Any]:
    """Estimate the likelihood without inactive units, and the paired difference to that with all units."""
    with_all = whole.value[: len(x)]
    result = None
    if not len(x):
        left_out["nll_active_units_only"] = "not requested"
    elif found is None:
        left_out["nll_active_units_only"] = left_out["active_units"]
    elif found.counts == found.sizes:
        result = with_all
    elif (reason := obstacle(model)) is not None:
        left_out["nll_active_units_only"] = reason
    else:
        pruned = without_units(cast(DenseVAE, model), found.active)
        units = "_".join(map(str, found.counts))  # the journal must be for the same set of units
        result = estimates("test images, active units only", pruned, x, seed, f"evaluation-active-{units}").value
    return {
        "nll_active_units_only": None if result is None else -result.mean().item(),
        "nll_all_units": None if result is None else -with_all.mean().item(),
        "active_units_only_difference": None if result is None else (with_all - result).mean().item(),
        "active_units_only_difference_std_error": None if result is None else mean_std_error(with_all - result),
        "active_units_only_observations": 0 if result is None else len(x),
    }


def draw_loss_curve(run: Run, checkpoint: Checkpoint) -> None:
    """Write ``loss-curve.png`` from ``metrics.csv``."""
    content = pictures.loss_curve(run, checkpoint.config, checkpoint.image_shape, checkpoint.segments)
    replace_file(run.loss_curve, content)


def draw_reconstructions(run: Run, model: LatentVariableModel, data: ImageData) -> None:
    """Write ``reconstructions.png``; do nothing if the data are not images."""
    if pictures.are_images(data.image_shape):
        replace_file(run.reconstructions, pictures.reconstructions(model, data))


def draw_samples(
    path: Path, checkpoint: Checkpoint, model: LatentVariableModel, rows: int, columns: int, seed: int
) -> None:
    """Write a PNG file of samples; do nothing if the data are not images."""
    shape: Sequence[int] = checkpoint.image_shape
    if pictures.are_images(shape):
        replace_file(path, pictures.samples(model, shape, rows, columns, seed))


def mean_std_error(values: Tensor) -> float | None:
    """Estimate the standard error of the mean of independent values (B,); return None for a single value."""
    return None if len(values) < 2 else (values.std() / math.sqrt(len(values))).item()


def _finite(value: float) -> float | None:
    """Replace NaN, the standard error of a single sample, by None, because JSON does not have NaN."""
    return value if math.isfinite(value) else None
