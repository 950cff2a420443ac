"""``iwae-fast impute RUN FILE``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..defaults import IMPUTATION_K
from .options import Backend, ChunkSize, Device, RunFolder


def impute(
    run_folder: RunFolder,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="File (.npz or .npy) of observations, in which NaN is missing.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write: .npy, .npz (with diagnostics per row) or .csv.")
    ],
    k: Annotated[int, typer.Option("--k", "-k", help="Importance samples per observation.")] = IMPUTATION_K,
    draws: Annotated[int, typer.Option(help="Number of imputations drawn per observation, in place of means.")] = 0,
    median: Annotated[bool, typer.Option("--median", help="Impute medians in place of means.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the samples.", show_default="the run's")] = None,
    chunk_size: ChunkSize = None,
    device: Device = None,
    backend: Backend = None,
) -> None:
    """Fill in the missing values of a file by a trained model, given the observed values of each row."""
    from ..imputed_file import SUFFIXES, observations, write
    from ..train.runs import open_trained, trained_model
    from .progress import console

    if output.suffix not in SUFFIXES:
        raise ValueError(f"--output must end in {', '.join(SUFFIXES)}, got {output}")
    if draws and median:
        raise ValueError("--draws and --median exclude each other: give one of them")
    _, checkpoint = open_trained(run_folder)
    x, shape = observations(file, checkpoint.data_dim)
    model = trained_model(checkpoint, device, backend)
    found = model.impute(
        x.to(next(model.parameters()).device),
        num_samples=k,
        num_draws=draws,
        median=median,
        seed=checkpoint.config.seed if seed is None else seed,
        chunk_size=chunk_size,
    )
    write(output, found, shape)
    missing = x.isnan()
    estimate = found.log_likelihood
    doubtful = (estimate.pareto_k > 0.7)[missing.any(1).to(estimate.pareto_k.device)]
    console.print(
        f"imputed {int(missing.sum())} values of {int(missing.any(1).sum())} rows with k = {k}, mean ESS "
        f"{estimate.ess.mean().item():.1f}"
    )
    if doubtful.any():
        console.print(f"k-hat is above 0.7 for {int(doubtful.sum())} rows: their imputation needs more samples, by --k")
    console.print(str(output))
