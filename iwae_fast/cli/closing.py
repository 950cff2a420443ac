"""The evaluation of a run with its progress bar and its one line of result."""

from __future__ import annotations

from .. import checks
from ..checkpoint import Checkpoint
from ..data import ImageData
from ..models import DenseVAE
from ..results import evaluate_run
from ..runs import Run
from .progress import console, evaluation_progress


def evaluate_and_print(
    run: Run,
    checkpoint: Checkpoint,
    model: DenseVAE,
    data: ImageData,
    *,
    k: int,
    observations: int | None = None,
    chunk_size: int | None = None,
) -> None:
    """Evaluate on the test set (or its first ``observations``), write ``evaluation.json``, print the likelihood."""
    checks.positive("k", k)
    count = (
        len(data.test) if observations is None else min(checks.positive("observations", observations), len(data.test))
    )
    with evaluation_progress(k, count) as progress:
        result = evaluate_run(
            run, checkpoint, model, data, k=k, observations=count, chunk_size=chunk_size, progress=progress
        )
    heavy = result["pareto_k_above_0.7"]
    tails = "" if heavy is None else f", Pareto k-hat above 0.7 for {heavy:.0%}"
    error = "" if result["std_error"] is None else f" ± {result['std_error']:.3f}"
    console.print(
        f"test NLL {result['nll']:.3f}{error} nats (standard error; k = {k}, {count} of {len(data.test)} test images), "
        f"mean ESS {result['ess']:.1f}{tails}"
    )
