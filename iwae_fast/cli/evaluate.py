"""``iwae-fast evaluate RUN``."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import data
from ..runs import open_run, trained_model
from .closing import evaluate_and_print
from .options import Backend, ChunkSize, Device, RunFolder


def evaluate(
    run_folder: RunFolder,
    k: Annotated[int, typer.Option("--k", "-k", help="Samples of each test image.")] = 5000,
    observations: Annotated[
        int | None, typer.Option(help="Only the first so many test images.", show_default="all")
    ] = None,
    chunk_size: ChunkSize = None,
    device: Device = None,
    backend: Backend = None,
) -> None:
    """Estimate the test log-likelihood of a trained model and write evaluation.json."""
    run, checkpoint = open_run(run_folder)
    model = trained_model(checkpoint, device, backend)
    images = data.load(checkpoint.config.dataset)
    evaluate_and_print(run, checkpoint, model, images, k=k, observations=observations, chunk_size=chunk_size)
