"""``iwae-fast sweep``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import choices
from .interrupt import stop_on_signals
from .invocation import command_line
from .many import checked_launcher, end, run_works
from .options import Device, Jobs, LauncherTemplate, SideBySide

if TYPE_CHECKING:
    from rich.table import Table

    from ..sweep.outcome import TrialOutcome
    from ..sweep.search import Trial
    from ..sweep.space import Space
    from ..sweep.work import SweepWork

TRIALS = 20


def sweep(
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="Values of a setting, of which every combination is tried; separated by semicolons if values have "
            "commas. May be given several times.",
            show_default=False,
        ),
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=LOW..HIGH",
            help="Range of a setting to sample from, LOW..HIGH:log for a logarithmic scale, or values VALUE,... to "
            "choose from. May be given several times.",
            show_default=False,
        ),
    ] = None,
    shared: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting of all runs, such as dataset=mnist, epochs=20 or validation=5000. May be given several "
            "times.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds, from 0, with which each trial is run.")] = 1,
    trials: Annotated[
        int | None,
        typer.Option(help="Number of samples for each combination of --grid.", show_default=str(TRIALS)),
    ] = None,
    sampler: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(choices.SAMPLERS)}: how --sample chooses, by earlier trials or without them.",
            autocompletion=choices.completing(choices.SAMPLERS),
        ),
    ] = choices.SAMPLERS[0],
    jobs: Jobs = 1,
    side_by_side: SideBySide = 1,
    launcher: LauncherTemplate = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the sweep.", show_default="sweeps/DATASET-SETTINGS")
    ] = None,
    device: Device = None,
) -> None:
    """Train over settings and seeds, and compare the results by the NLL.

    Trials are compared by the NLL of the validation set, or of the test set if there is none. Finished runs are kept,
    and interrupted ones resume when the command is run again. Several processes may work on one folder.
    """
    from ... import checks
    from ..sweep.outcome import ranked, trial_outcome
    from ..sweep.search import SAMPLERS, Search, optuna_module
    from ..sweep.space import Space
    from ..sweep.work import SweepWork
    from .progress import console

    checks.one_of("sampler", sampler, SAMPLERS)
    counts = {"seeds": seeds, "trials": TRIALS if trials is None else trials, "side-by-side": side_by_side}
    for name, value in counts.items():
        checks.positive(name, value)
    settings = [*(shared or []), *([] if device is None else [f"device={device}"])]
    space = Space.parse(settings, grid or [], sample or [])
    if not (space.grid or space.sampled or seeds > 1):
        raise ValueError("a sweep needs --grid NAME=VALUE,..., --sample NAME=LOW..HIGH or several --seeds")
    if trials is not None and not space.sampled:
        raise ValueError("--trials has no effect without --sample: a grid has one trial for each combination")
    launch = checked_launcher(launcher, jobs, space.shared.get("device"))
    optuna_module()
    validated = space.check(devices=launch is None)
    names = (*space.grid, *space.sampled)
    folder = output or Path("sweeps") / "-".join([Path(space.dataset).stem, *(names or ["seeds"])])
    folder.mkdir(parents=True, exist_ok=True)
    space.claim(folder)
    search = Search(folder, space, (trials or TRIALS) if space.sampled else 1, sampler)
    objective = "validation" if validated else "test"
    parent = (folder if launch is None else folder.absolute()) / "runs"  # a launched command may start elsewhere

    def works_of(trial: Trial) -> list[SweepWork]:
        complete = space.complete(trial.settings)
        return [
            SweepWork(trial, seed, parent, {**complete, "seed": seed}, validated, bool(space.sampled))
            for seed in range(seeds)
        ]

    def works() -> Iterator[SweepWork]:
        for trial in search.trials():
            yield from works_of(trial)

    def ended(work: SweepWork) -> str:
        found = trial_outcome(work.trial, works_of(work.trial))
        if found.nll is not None and len(found.finished) == seeds:
            search.tell(work.trial, found.nll)
        return f"{objective} NLL {work.nll():.3f}"

    if not validated:
        console.print(
            "warning: there is no validation set, so trials are compared by the test NLL; hold one out by "
            "--set validation=N"
        )
    total = len(search.points) * search.count
    console.print(f"{total} trials with {seeds} seed{'' if seeds == 1 else 's'} each in {folder}", markup=False)
    with stop_on_signals() as stop:
        failures = run_works(works(), parent, jobs, launch, stop, ended, side_by_side)
    outcomes = ranked([trial_outcome(trial, works_of(trial)) for trial in search.known()])
    console.print(_printed(space, objective, outcomes))
    _write(folder, space, seeds, objective, outcomes)
    console.print(str(folder / "sweep.html"), markup=False)
    end(failures, stop, launch)


def _write(folder: Path, space: Space, seeds: int, objective: str, outcomes: list[TrialOutcome]) -> None:
    from ...files import replace_file, write_json
    from ..sweep.outcome import content, table
    from ..sweep.page import write_page

    write_json(folder / "sweep.json", content(space, seeds, objective, outcomes, command_line()))
    replace_file(folder / "sweep.csv", table(space, objective, outcomes))
    write_page(folder / "sweep.html", space, seeds, objective, outcomes, command_line())


def _printed(space: Space, objective: str, outcomes: list[TrialOutcome]) -> Table:
    from rich.table import Table

    from ..report.page import duration, fixed
    from ..setting_text import setting_text

    names = (*space.grid, *space.sampled)
    printed = Table()
    for name in names:
        printed.add_column(name, overflow="fold")
    columns = (f"{objective} NLL", "seeds", *(() if objective == "test" else ("test NLL",)), "training")
    for name in columns:
        printed.add_column(name, justify="right")
    for each in outcomes:
        error = "" if each.std_error is None else f" ± {fixed(each.std_error, 3)}"
        cells = [fixed(each.nll, 3) + error, f"{len(each.finished)} of {len(each.runs)}"]
        cells += [] if objective == "test" else [fixed(each.test_nll, 3)]
        printed.add_row(*(setting_text(each.trial.settings[name]) for name in names), *cells, duration(each.seconds))
    return printed
