"""``iwae-fast sample RUN``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Backend, Device, RunFolder


def sample(
    run_folder: RunFolder,
    rows: Annotated[int, typer.Option(help="Rows of images.")] = 6,
    columns: Annotated[int, typer.Option(help="Images per row.")] = 12,
    seed: Annotated[int | None, typer.Option(help="Seed of the latents.", show_default="the run's")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="PNG file.", show_default="samples.png in RUN")
    ] = None,
    device: Device = None,
    backend: Backend = None,
) -> None:
    """Draw images from a trained model."""
    from ... import checks
    from ..evaluate.results import draw_samples
    from ..pictures import pictures
    from ..train.runs import open_trained, trained_model
    from ..unused import check_suffix
    from .progress import console

    checks.positive("rows", rows)
    checks.positive("columns", columns)
    if output is not None:
        check_suffix("--output", output, ".png")
    run, checkpoint = open_trained(run_folder)
    if not pictures.are_images(checkpoint.image_shape):
        raise ValueError(
            f"{checkpoint.config.dataset} is not an image data set: samples of {run_folder} cannot be drawn"
        )
    model = trained_model(checkpoint, device, backend)
    path = output or run.samples
    draw_samples(path, checkpoint, model, rows, columns, checkpoint.config.seed if seed is None else seed)
    console.print(str(path))
