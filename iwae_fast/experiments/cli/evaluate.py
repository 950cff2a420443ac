"""``iwae-fast evaluate RUN``."""

from __future__ import annotations

from typing import Annotated

import typer

from ..defaults import EVALUATION_K, OBSERVATIONS
from .options import MISSING, Backend, ChunkSize, Device, RunFolder, SampleRanks


def evaluate(
    run_folder: RunFolder,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="Other data to evaluate: a file, a folder of images or a data set; its test array, or all of its "
            "rows. Or the run's data, if they have moved.",
            show_default=False,
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Samples per image.")] = EVALUATION_K,
    observations: Annotated[
        int | None, typer.Option(help="Number of test images, always the same subset.", show_default="all")
    ] = None,
    train_observations: Annotated[
        int, typer.Option(help="Number of training images to evaluate too; 0 for none.")
    ] = OBSERVATIONS,
    active_only_observations: Annotated[
        int,
        typer.Option(
            help="Number of test images to evaluate again without inactive units, if there are any; 0 for none."
        ),
    ] = OBSERVATIONS,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The same as FILE.",
            show_default="the run's",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Column or array of labels in FILE.", show_default="the run's, if FILE has it"
        ),
    ] = None,
    array: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Array or columns of observations in FILE.", show_default="the run's, if FILE has it"
        ),
    ] = None,
    missing: Annotated[str | None, typer.Option(metavar="VALUE", help=MISSING, show_default="the run's")] = None,
    divide_by: Annotated[
        float | None, typer.Option(help="Divisor of all numbers of FILE.", show_default="the run's")
    ] = None,
    validation: Annotated[
        bool, typer.Option("--validation", help="Evaluate the validation set of the run in place of its test set.")
    ] = False,
    chunk_size: ChunkSize = None,
    device: Device = None,
    backend: Backend = None,
    sample_ranks: SampleRanks = 1,
) -> None:
    """Estimate the likelihood of a trained model, count its active units, and write the report.

    Earlier evaluations are kept; evaluation.json and report.html show the best one. An interrupted evaluation resumes
    when the command is run again.
    """
    from ..processes import started
    from ..train.fixed_pixels import validation_data
    from ..train.run_data import find_data
    from ..train.runs import open_trained, trained_model
    from .closing import evaluate_and_print, evaluate_other_and_print

    if file is not None and data is not None:
        raise ValueError(f"FILE and --data are the same, and exclude each other: got {file} and {data}")
    data = file if data is None else data
    given = {"labels": labels, "array": array, "missing": missing, "divide_by": divide_by}
    with started(sample_ranks) as processes:
        run, checkpoint = processes.from_first(lambda: open_trained(run_folder))
        processes.use(device or checkpoint.config.device)
        model = trained_model(checkpoint, device, backend)
        found = processes.leaders_first(lambda: find_data(checkpoint, run.checkpoint, data, **given))
        other = None if found.is_own else found.data
        if validation:
            if not found.is_own:
                raise ValueError(f"--validation is for the run's own data, got other data: {data}")
            other = validation_data(found.data, checkpoint.config.validation)
            if other is None:
                raise ValueError(f"{run.folder} does not have a validation set: train with --validation N")
        if other is not None:
            evaluate_other_and_print(
                run,
                checkpoint,
                model,
                other,
                k=k,
                observations=observations,
                chunk_size=chunk_size,
                processes=processes,
            )
            return
        evaluate_and_print(
            run,
            checkpoint,
            model,
            found.data,
            k=k,
            observations=observations,
            train_observations=train_observations,
            pruned_observations=active_only_observations,
            chunk_size=chunk_size,
            processes=processes,
        )
