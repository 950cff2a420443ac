"""Arguments and options shared by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import choices

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.", show_default="the run's")]
Backend = Annotated[
    str | None,
    typer.Option(
        help="Force a backend; see `iwae-fast info`.",
        show_default="the run's",
        autocompletion=choices.completing(choices.BACKENDS),
    ),
]
ChunkSize = Annotated[
    int | None, typer.Option(help="Samples evaluated at once; fewer take less memory.", show_default="automatic")
]
MISSING = "Value that stands for a missing one: nan, another number, or a text in a table. The model then ignores it."
SAMPLE_RANKS = "Processes of torchrun that divide the samples of the same images; groups of them divide the images."
SampleRanks = Annotated[int, typer.Option(help=SAMPLE_RANKS)]
Jobs = Annotated[int, typer.Option(help="Number of concurrent runs, which share the cores or the GPUs.")]
SideBySide = Annotated[
    int,
    typer.Option(
        "--side-by-side",
        help="Number of runs that each job trains together, in one process with one copy of the data, so that small "
        "models share a GPU.",
    ),
]
LauncherTemplate = Annotated[
    str | None,
    typer.Option(
        "--launcher",
        help="Command line that starts the command of a run, such as 'srun --gres=gpu:1', or "
        "'sbatch --wait --job-name {name} --output {log} --wrap {command}', with {command} in one word.",
        show_default="none",
    ),
]
