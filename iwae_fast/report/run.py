"""The report of a run, from what its evaluation left in its folder and pictures of its model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..data import ImageData
from ..diagnostics import FEWEST_SAMPLES
from ..experiments import pictures, plots
from ..experiments.checkpoint import Checkpoint
from ..experiments.evaluations import all_evaluations
from ..experiments.metrics import read_metrics
from ..experiments.per_observation import PerObservation
from ..experiments.position import Position
from ..experiments.runs import Run
from ..files import read_json, replace_file
from ..models import LatentVariableModel
from .page import MINUS, Figure, fixed, render

SAMPLE_ROWS, SAMPLE_COLUMNS = 5, 12


def write_run_report(run: Run, checkpoint: Checkpoint, model: LatentVariableModel, data: ImageData) -> None:
    """Write ``report.html`` of a run that has been evaluated: OSError or ValueError where the folder has no results."""
    evaluation = read_json(run.evaluation)
    if "left_out" not in evaluation:
        raise ValueError(f"{run.evaluation} is of an earlier version: evaluate the run again")
    config = checkpoint.config
    epochs = read_metrics(run.metrics)
    page = render(
        "run.html",
        title=pictures.title(config),
        name=run.folder.resolve().name,
        thing="image" if pictures.are_images(data.image_shape) else "observation",
        config=config,
        settings=config.to_json(),
        how=checkpoint.how,
        evaluation=evaluation,
        left_out=evaluation["left_out"],
        other_evaluations=_others(run, evaluation),
        segments=_segments(checkpoint, data),
        last_epoch=epochs[-1] if epochs else None,
        data=data,
        loss_curve=Figure(
            pictures.loss_curve(run, config, checkpoint.segments),
            "Bound and effective sample size by epoch",
            "Means over the training set of each epoch, and of the validation set where one was held out.",
        )
        if epochs
        else None,
        weights=_weights(evaluation, PerObservation.load(run.per_observation)),
        activity=_activity(evaluation),
        pictures=_pictures(checkpoint, model, data, evaluation) if pictures.are_images(data.image_shape) else [],
    )
    replace_file(run.report, page.encode())


def _others(run: Run, shown: dict[str, Any]) -> list[dict[str, Any]]:
    """List the evaluations of a run beside the one that the page is of."""
    return [found.content for found in all_evaluations(run) if found.content != shown]


def _segments(checkpoint: Checkpoint, data: ImageData) -> list[tuple[str, str]]:
    """List the epochs of each objective and the objective, as far as there are several."""
    if len(checkpoint.segments) < 2:
        return []
    in_epoch = Position.of(checkpoint, data).steps_per_epoch
    starts = [segment.step for segment in checkpoint.segments]
    ends = [*starts[1:], checkpoint.step]
    return [
        (f"{fixed(start / in_epoch, start % in_epoch and 2)} to {fixed(end / in_epoch, end % in_epoch and 2)}", what)
        for start, end, what in zip(starts, ends, (s.describe() for s in checkpoint.segments), strict=True)
    ]


def _weights(evaluation: dict[str, Any], results: PerObservation) -> list[Figure]:
    k = evaluation["k"]
    figures = [
        Figure(
            plots.histogram(results.ess, "Effective sample size", f"samples, of k = {k}"),
            "Effective sample size by test observation",
            "(Σ w)² / Σ w² of the importance weights of each test observation, from 1 to k.",
        )
    ]
    if k >= FEWEST_SAMPLES and bool(np.isfinite(results.pareto_k).any()):
        figures.append(
            Figure(
                plots.histogram(results.pareto_k, "Pareto k-hat", "shape of the tail of the weights", 0.7),
                "Pareto k-hat by test observation",
                "Above 0.7 (dashed) an estimate needs more samples than these. "
                f"Not drawn: {np.isposinf(results.pareto_k).sum()} that are inf, {np.isneginf(results.pareto_k).sum()} "
                f"that are {MINUS}inf (equal weights), {np.isnan(results.pareto_k).sum()} undefined.",
            )
        )
    return figures


def _activity(evaluation: dict[str, Any]) -> Figure | None:
    if evaluation["activity"] is None:
        return None
    layers = [np.array(variances) for variances in evaluation["activity"]]
    smallest = min(float(variances.min()) for variances in layers)
    floor = (
        f" A variance below {plots.SMALLEST_VARIANCE:g} is drawn as that." if smallest < plots.SMALLEST_VARIANCE else ""
    )
    return Figure(
        plots.activity_histogram(layers, evaluation["activity_threshold"]),
        "Variance of the posterior mean by unit",
        f"Units on the right of the threshold (dashed) are active.{floor}",
    )


def _pictures(
    checkpoint: Checkpoint, model: LatentVariableModel, data: ImageData, evaluation: dict[str, Any]
) -> list[Figure]:
    seed = checkpoint.config.seed
    figures = [
        Figure(
            pictures.reconstructions(model, data),
            "Reconstructions",
            "Test images, as they were evaluated, above the mean of p(x | z) at the posterior mean of z.",
        ),
        Figure(
            pictures.samples(model, data.image_shape, SAMPLE_ROWS, SAMPLE_COLUMNS, seed),
            "Samples",
            "The mean of p(x | z) for z drawn from the prior.",
        ),
    ]
    if model.reparameterized and evaluation["activity"] is not None:
        figures.append(
            Figure(
                pictures.traversals(model, data, torch.tensor(evaluation["activity"][0])),
                "Latent traversals",
                f"The mean of p(x | z) as one unit of the layer nearest to the data goes from {MINUS}3 (left) to 3 "
                "(right), and the others stay at the posterior mean of the first test image. The most active units, "
                "the most active at the top.",
            )
        )
    return figures
