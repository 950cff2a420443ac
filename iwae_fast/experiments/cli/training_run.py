"""The steps of ``iwae-fast train``: open a new or an earlier run, train it, evaluate it and draw pictures.

They are taken in turns (:mod:`..train.turns`), so that ``iwae-fast side-by-side`` can train several runs together.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import launched
from ..config import CHANGEABLE, TrainConfig, usable_device
from ..defaults import OBSERVATIONS
from ..evaluate.results import draw_loss_curve, draw_reconstructions, draw_samples
from ..processes import ALONE, Processes, is_loss_of_another, started
from ..trackers.reporter import recorded, tracking
from ..trackers.table import tracker_names
from ..train import training
from ..train.reporter import Reporter, Reporters
from ..train.run_data import load_own_data
from ..train.runs import (
    Run,
    check_empty,
    check_is_run,
    continue_elsewhere,
    create_run,
    default_folder,
    open_run,
    open_trained,
    sole_trainer,
    trained_model,
)
from ..train.shared import SharedData
from ..train.turns import Pause, Turns, finish, on_own_stream
from ..unused import check_training
from . import Interrupted, Terminated
from .closing import evaluate_and_print
from .interrupt import StopFlag, stop_on_signals
from .progress import console, training_progress

if TYPE_CHECKING:
    from ...data import ImageData
    from ..train.checkpoint import Checkpoint

SAMPLE_ROWS, SAMPLE_COLUMNS = 6, 12


@dataclass(frozen=True)
class Asked:
    """A request for a run, made of a command line and its settings file."""

    settings: dict[str, Any]
    """Settings that differ from the preset, or from those of the earlier run."""
    named: set[str]
    """Names of the settings that must have an effect."""
    resume: Path | None = None
    start_from: Path | None = None
    output: Path | None = None
    log: tuple[str, ...] | None = None
    """Trackers by name; None for those of the run that is resumed."""

    @property
    def earlier(self) -> Path | None:
        """The folder of the run that goes on, here or in another folder."""
        return self.start_from if self.resume is None else self.resume

    def config(self) -> TrainConfig:
        """Return the settings of the run; raises ValueError for those that cannot be changed, or have no effect."""
        if self.earlier is None:
            settings = dict(self.settings)
            config = TrainConfig.preset(settings.pop("dataset", "digits"), **settings)
            check_training(self.named, config)
            return config
        return self.changed(open_run(self.earlier)[1].config)

    def changed(self, earlier: TrainConfig) -> TrainConfig:
        """Return the settings of an earlier run with those that are asked for."""
        config = replace(earlier, **self.settings)
        fixed = config.differences(earlier)
        if fixed:
            raise ValueError(
                f"a run cannot be resumed with another {', '.join(fixed)}: only {', '.join(CHANGEABLE)} may change"
            )
        if config.epochs < earlier.epochs:
            raise ValueError(f"epochs can only be raised: the run has {earlier.epochs}, got {config.epochs}")
        check_training(self.named, config)
        return config


@dataclass(frozen=True)
class Company:
    """The other runs in the process of a run."""

    data: SharedData = field(default_factory=SharedData)
    stop: StopFlag | None = None
    """The flag by which all of them stop; None if there are none."""

    def stopping(self) -> AbstractContextManager[StopFlag]:
        """Return a context with the flag by which training stops."""
        return stop_on_signals() if self.stop is None else nullcontext(self.stop)

    def beside(self, turns: Turns[bool], config: TrainConfig) -> Turns[bool]:
        """Return training in turns, on a stream of its own if there are other runs."""
        return turns if self.stop is None else on_own_stream(turns, usable_device(config.device, config.backend))


_requests: ContextVar[list[Asked] | None] = ContextVar("requests", default=None)


@contextmanager
def collected_requests() -> Iterator[Sequence[Asked]]:
    """Yield a list to which :func:`perform` adds requests inside the context, in place of performing them."""
    found: list[Asked] = []
    token = _requests.set(found)
    try:
        yield found
    finally:
        _requests.reset(token)


def perform(asked: Asked, sample_ranks: int) -> None:
    """Train the run that is asked for, together with the other processes if there are several."""
    requests = _requests.get()
    if requests is not None:
        requests.append(asked)
        return
    with started(sample_ranks) as processes:
        finish(begin_or_resume(asked, processes))


def begin_or_resume(asked: Asked, processes: Processes = ALONE, company: Company | None = None) -> Turns[None]:
    """Train a new or an earlier run to the end, and evaluate it."""
    company = company or Company()
    checkpoint: Checkpoint | None
    if asked.resume is not None:
        folder = check_is_run(asked.resume).folder
        with processes.holding(sole_trainer(folder)):  # before reading: no other process may change the run meanwhile
            run, checkpoint, config, images = _reopen(folder, asked, processes, company)
            yield from _train(run, config, images, checkpoint, asked.log, processes, company)
        return
    if asked.start_from is None:
        earlier, checkpoint = None, None
        config = asked.config()
        processes.use(config.device)
        usable_device(config.device, config.backend)
        images = processes.leaders_first(lambda: company.data.load(config))
        training.check(config, images, company.data)
    else:
        earlier, checkpoint, config, images = _reopen(asked.start_from, asked, processes, company)
    # The name of a default folder has the time, which differs between processes.
    folder = processes.from_first(lambda: _new_folder(asked.output or default_folder(config)))
    with processes.holding(sole_trainer(folder)):
        run = processes.from_first(
            lambda: create_run(folder, config) if earlier is None else continue_elsewhere(earlier, folder, config)
        )
        console.print(f"training in {run.folder}")
        yield from _train(run, config, images, checkpoint, asked.log, processes, company)


def _new_folder(folder: Path) -> Path:
    """Make a new folder; raises FileExistsError if it is there and not empty."""
    check_empty(folder)  # every check precedes the folder, so that a refused run does not leave an empty one
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _train(
    run: Run,
    config: TrainConfig,
    images: ImageData,
    checkpoint: Checkpoint | None,
    log: tuple[str, ...] | None,
    processes: Processes,
    company: Company,
) -> Turns[None]:
    """Train to the end, evaluate and draw pictures; the caller holds :func:`.runs.sole_trainer`."""
    command = f"{launched.command()} train --resume {shlex.quote(str(run.folder))}"
    trackers = log if log is not None else processes.from_first(lambda: _recorded_trackers(run))
    with _tracked(run, config, checkpoint, trackers, processes) as tracked:
        with company.stopping() as stop, training_progress(config.epochs) as progress:
            turns = training.train_in_turns(
                config,
                run,
                images,
                resume_from=checkpoint,
                reporter=Reporters(progress, tracked),
                stop=stop,
                processes=processes,
                shared=company.data,
            )
            try:
                yield from company.beside(turns, config)
            except RuntimeError as error:
                if processes.size > 1 and is_loss_of_another(error):
                    raise training.TrainingError(
                        f"another process has ended ({error}); resume from the last checkpoint with: {command}"
                    ) from error
                raise
            # The signal of any process stops all of them, once the first one has saved the run.
            number = processes.largest(stop.number if stop() else 0)
        if number:
            raise Interrupted(f"interrupted, everything is saved; resume with: {command}", number)
        try:
            yield Pause.TRAINED
            _close(run, config, images, tracked, processes)
        except (KeyboardInterrupt, Terminated) as error:
            message = f"training is done but its evaluation is not; resume with: {command}"
            raise Interrupted(message, error.number if isinstance(error, Terminated) else signal.SIGINT) from None
    console.print(f"run folder {run.folder}")


def _recorded_trackers(run: Run) -> tuple[str, ...]:
    """Return the trackers to which a run was logged; raises ValueError if one of them is not installed here."""
    try:
        return tracker_names(recorded(run))
    except ValueError as error:
        raise ValueError(f"{error}; or resume without it by --log none") from error


def _tracked(
    run: Run, config: TrainConfig, checkpoint: Checkpoint | None, trackers: tuple[str, ...], processes: Processes
) -> AbstractContextManager[Reporter]:
    """Return the reporter to trackers, which the first process alone has."""
    if not processes.is_first:
        return nullcontext(Reporter())
    step = 0 if checkpoint is None else checkpoint.step

    def say(text: str) -> None:
        console.print(text, markup=False)

    return tracking(run, config, trackers, step, say, (KeyboardInterrupt, Interrupted, Terminated))


def _reopen(
    folder: Path, asked: Asked, processes: Processes, company: Company
) -> tuple[Run, Checkpoint, TrainConfig, ImageData]:
    """Open an earlier run with its data and with changed settings; raises ValueError for settings that may not change.

    Nothing is written.
    """
    run, checkpoint = processes.from_first(lambda: open_run(folder))
    config = asked.changed(checkpoint.config)
    processes.use(config.device)
    usable_device(config.device, config.backend)
    now = replace(checkpoint, config=config)
    images = processes.leaders_first(lambda: load_own_data(now, run.checkpoint, load=company.data.load))
    training.check(config, images, company.data)
    return run, checkpoint, config, images


def _close(run: Run, config: TrainConfig, images: ImageData, tracked: Reporter, processes: Processes) -> None:
    """Draw the pictures and evaluate, from the files of the run."""
    _, checkpoint = processes.from_first(lambda: open_trained(run.folder))
    model = trained_model(checkpoint)
    if processes.is_first:
        draw_loss_curve(run, checkpoint)
        draw_reconstructions(run, model, images)
        draw_samples(run.samples, checkpoint, model, SAMPLE_ROWS, SAMPLE_COLUMNS, checkpoint.config.seed)
        tracked.drawn(checkpoint.step, run.loss_curve, run.reconstructions, run.samples)
    if config.eval_k:
        few = config.eval_observations
        result = evaluate_and_print(
            run,
            checkpoint,
            model,
            images,
            k=config.eval_k,
            observations=few,
            train_observations=min(few, OBSERVATIONS),
            pruned_observations=min(few, OBSERVATIONS),
            wait=True,
            shorter="fewer with --eval-observations, none with --eval-k 0",
            processes=processes,
        )
        tracked.evaluated(result)
        if few < len(images.test):
            console.print(
                f"to evaluate on all {len(images.test)} test observations: "
                f"iwae-fast evaluate {shlex.quote(str(run.folder))}"
            )
