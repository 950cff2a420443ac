"""The report of a run, from its stored evaluation and pictures of its model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...data import ImageData
from ...evaluate.diagnostics import FEWEST_SAMPLES
from ...files import read_json, replace_file
from ...models import LatentVariableModel
from ..evaluate.evaluations import all_evaluations
from ..evaluate.per_observation import PerObservation
from ..pictures import pictures, plots
from ..train.checkpoint import Checkpoint
from ..train.metrics import EpochMetrics, read_metrics
from ..train.position import Position
from ..train.runs import Run
from .architecture import layers
from .page import MINUS, Figure, fixed, render
from .verdict import LIMIT, judge

SAMPLE_ROWS, SAMPLE_COLUMNS = 5, 12


def write_run_report(run: Run, checkpoint: Checkpoint, model: LatentVariableModel, data: ImageData) -> None:
    """Write ``report.html`` of an evaluated run; raises OSError or ValueError if the folder does not have results."""
    evaluation = read_json(run.evaluation)
    if "left_out" not in evaluation:
        raise ValueError(f"{run.evaluation} was written by an earlier version: evaluate the run again")
    config = checkpoint.config
    epochs = read_metrics(run.metrics)
    thing = pictures.thing(data.image_shape)
    results = PerObservation.load(run.per_observation)
    page = render(
        "run.html",
        title=pictures.title(config),
        name=run.folder.resolve().name,
        thing=thing,
        config=config,
        settings=config.relevant(),
        how=checkpoint.how,
        evaluation=evaluation,
        verdict=judge(evaluation),
        left_out=evaluation["left_out"],
        other_evaluations=_others(run, evaluation),
        segments=_segments(checkpoint, data),
        last_epoch=epochs[-1] if epochs else None,
        data=data,
        layers=layers(model),
        curves=_curves(epochs, config.k, thing, pictures.changes(epochs, checkpoint.segments)),
        weights=_weights(evaluation, results),
        activity=_activity(evaluation),
        plane=_plane(model, data),
        pictures=_pictures(checkpoint, model, data, evaluation, results) if thing == "image" else [],
    )
    replace_file(run.report, page.encode())


def _others(run: Run, shown: dict[str, Any]) -> list[dict[str, Any]]:
    """List the evaluations of a run other than the one that the page shows."""
    return [found.content for found in all_evaluations(run) if found.content != shown]


def _segments(checkpoint: Checkpoint, data: ImageData) -> list[tuple[str, str]]:
    """List (epochs, objective) if the objective changed, else nothing."""
    if len(checkpoint.segments) < 2:
        return []
    in_epoch = Position.of(checkpoint, data).steps_per_epoch
    starts = [segment.step for segment in checkpoint.segments]
    ends = [*starts[1:], checkpoint.step]
    return [
        (f"{fixed(start / in_epoch, start % in_epoch and 2)} to {fixed(end / in_epoch, end % in_epoch and 2)}", what)
        for start, end, what in zip(starts, ends, (s.describe() for s in checkpoint.segments), strict=True)
    ]


def _curves(epochs: Sequence[EpochMetrics], k: int, thing: str, changes: Sequence[float]) -> list[Figure]:
    if not epochs:
        return []
    return [
        Figure.drawn(
            lambda theme: plots.bound_curve(epochs, thing, theme, changes),
            "Bound by epoch",
            "Mean over the training set in each epoch, and over the validation set if there is one.",
        ),
        Figure.drawn(
            lambda theme: plots.bound_curve(epochs, thing, theme, changes, by_time=True),
            "Bound by training time",
            "The same bounds against training time at the end of each epoch.",
        ),
        Figure.drawn(
            lambda theme: plots.size_curve(epochs, k, theme, changes),
            "Effective sample size by epoch",
            f"(Σ w)² / Σ w² of the k = {k} weights in training, from 1 to k, averaged over each epoch.",
        ),
    ]


def _weights(evaluation: dict[str, Any], results: PerObservation) -> list[Figure]:
    k = evaluation["k"]
    figures = [
        Figure.drawn(
            lambda theme: plots.histogram(results.ess, "Effective sample size", f"samples, of k = {k}", theme=theme),
            "Effective sample size by test observation",
            "(Σ w)² / Σ w² of the importance weights of each test observation, from 1 to k.",
        )
    ]
    if k >= FEWEST_SAMPLES and bool(np.isfinite(results.pareto_k).any()):
        figures.append(
            Figure.drawn(
                lambda theme: plots.histogram(
                    results.pareto_k, "Pareto k-hat", "shape of the tail of the weights", LIMIT, theme
                ),
                "Pareto k-hat by test observation",
                f"Above {LIMIT} (dashed line) an estimate needs more samples. "
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
        f" Variances below {plots.SMALLEST_VARIANCE:g} are drawn at that value."
        if smallest < plots.SMALLEST_VARIANCE
        else ""
    )
    return Figure.drawn(
        lambda theme: plots.activity_histogram(layers, evaluation["activity_threshold"], theme),
        "Variance of the posterior mean by unit",
        f"Units to the right of the threshold (dashed line) are active.{floor}",
    )


def _plane(model: LatentVariableModel, data: ImageData) -> list[Figure]:
    """Draw two dimensions of the latent space if there are at least two latent units and two observations."""
    with torch.no_grad():
        latent_dim = model.prior_draws(1, 0).shape[-1]
    if latent_dim < 2 or len(data.test) < 2:
        return []
    said = pictures.latent_plane(model, data)[1]
    shown = "The posterior mean of each test observation" + (
        ", with some of the images." if pictures.are_images(data.image_shape) else "."
    )
    if "test" in data.labels:
        said = f"Colors are labels. {said}"
    figures = [
        Figure.drawn(lambda theme: pictures.latent_plane(model, data, theme)[0], "Latent space", f"{shown} {said}")
    ]
    if latent_dim == 2 and pictures.are_images(data.image_shape):
        figures.append(
            Figure.drawn(
                lambda theme: pictures.decoded_plane(model, data, theme),
                "Decoded plane",
                "The mean of p(x | z) at quantiles of a standard normal along both units.",
            )
        )
    return figures


def _pictures(
    checkpoint: Checkpoint,
    model: LatentVariableModel,
    data: ImageData,
    evaluation: dict[str, Any],
    results: PerObservation,
) -> list[Figure]:
    seed = checkpoint.config.seed
    pixels = (
        "From the top: gray levels, the pixels drawn from them (the same for all runs), and"
        if data.grey_levels
        else ("Test images above")
    )
    figures = [
        Figure.drawn(
            lambda theme: pictures.reconstructions(model, data, theme),
            "Reconstructions",
            f"{pixels} the mean of p(x | z) at the posterior mean of z.",
        ),
        Figure.drawn(
            lambda theme: pictures.worst(model, data, torch.from_numpy(results.nll), theme),
            "Worst test images",
            "The test images with the highest negative log-likelihood, which is given in nats above each.",
        ),
        Figure.drawn(
            lambda theme: pictures.samples(model, data.image_shape, SAMPLE_ROWS, SAMPLE_COLUMNS, seed, theme),
            "Samples",
            "The mean of p(x | z) for z drawn from the prior.",
        ),
    ]
    if model.reparameterized and evaluation["activity"] is not None:
        variance = torch.tensor(evaluation["activity"][0])
        figures.append(
            Figure.drawn(
                lambda theme: pictures.traversals(model, data, variance, theme),
                "Latent traversals",
                f"The mean of p(x | z) as one unit of the layer nearest to the data goes from {MINUS}3 (left) to 3 "
                "(right), while the others stay at the posterior mean of the first test image. The most active units "
                "are shown, the most active at the top.",
            )
        )
    return figures
