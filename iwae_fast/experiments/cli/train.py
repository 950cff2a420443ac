"""``iwae-fast train``."""

from __future__ import annotations

import shlex
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import launched
from ..defaults import EVALUATION_K, OBSERVATIONS
from . import Interrupted, Terminated, choices
from .bound_options import with_bound_options
from .interrupt import stop_on_signals
from .options import SampleRanks

if TYPE_CHECKING:
    from ...data import ImageData
    from ..config import TrainConfig
    from ..processes import Processes
    from ..train.checkpoint import Checkpoint
    from ..train.runs import Run

SAMPLE_ROWS, SAMPLE_COLUMNS = 6, 12
PRESET = "depends on the data set"


def _one_of(names: tuple[str, ...], default: str, explained: str = "{names}.") -> Any:
    """Return an option that accepts one of the names, with its help and completion."""
    return typer.Option(
        help=explained.format(names=", ".join(names)),
        show_default=default,
        autocompletion=choices.completing(names),
    )


@with_bound_options
def train(
    dataset: Annotated[str | None, _one_of(choices.DATASETS, "digits")] = None,
    data_file: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Data file (.npz or .npy) in place of a data set; with --resume, the new path of the run's data.",
            show_default=False,
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        _one_of(choices.PROTOCOLS, "constant", "Training protocol of a paper, for settings not given here: {names}."),
    ] = None,
    stages: Annotated[
        int | None,
        typer.Option(
            help="Number of stages of the protocol to run: 1 + 3 + 9 + ... passes, unless --epochs is given.",
            show_default="8",
        ),
    ] = None,
    network: Annotated[
        str | None,
        _one_of(
            choices.NETWORKS, "dense", "{names} (the last two with random weights, everywhere or in the encoder only)."
        ),
    ] = None,
    likelihood: Annotated[str | None, _one_of(choices.LIKELIHOODS, "bernoulli")] = None,
    prior: Annotated[str | None, _one_of(choices.PRIORS, "standard")] = None,
    bound: Annotated[str | None, _one_of(choices.BOUNDS, "iwae")] = None,
    estimator: Annotated[
        str | None,
        _one_of(
            choices.ESTIMATORS,
            "reparameterized",
            "reparameterized, stl or dreg; with iwae also aisle-kl, aisle-chi2, rws, rws-dreg or vimco; "
            "with several latent layers also gdreg.",
        ),
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(help="Samples per image in the backward pass; the gradient stays unbiased.", show_default="all"),
    ] = None,
    chunk_size: Annotated[
        int | None, typer.Option(help="Samples per image evaluated at once, to save memory.", show_default="all")
    ] = None,
    kl_warmup: Annotated[
        int | None,
        typer.Option(help="Steps over which the weight of the KL divergence rises from 0 to 1.", show_default="0"),
    ] = None,
    k: Annotated[int | None, typer.Option("--k", "-k", help="Samples per image.", show_default="50")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training set.", show_default=PRESET)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step.", show_default=PRESET)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate of Adam.", show_default=PRESET)] = None,
    hidden: Annotated[
        str | None,
        typer.Option(
            help="Sizes of the encoder's hidden layers, such as 200,200, or 200,200/100,100 with two latent layers.",
            show_default=PRESET,
        ),
    ] = None,
    latent: Annotated[
        str | None, typer.Option(help="Size of z, or of each latent layer, such as 100,50.", show_default=PRESET)
    ] = None,
    validation: Annotated[
        int | None,
        typer.Option(help="Number of training images held out and evaluated after each epoch.", show_default="0"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the run; the same seed gives the same run.", show_default="0")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.", show_default="cpu")] = None,
    backend: Annotated[
        str | None, _one_of(choices.BACKENDS, "automatic", "Force a backend; see `iwae-fast info`.")
    ] = None,
    capture: Annotated[
        bool | None,
        typer.Option(
            "--capture/--no-capture",
            help="Capture steps as CUDA graphs where possible: the same results, faster.",
            show_default="capture",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="New folder of the run.", show_default="runs/DATASET-BOUND-kK-TIME"),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Resume an earlier run exactly; --epochs may be raised, and the objective changed.",
            show_default=False,
        ),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Resume an earlier run in a new folder; the earlier run stays unchanged.",
            show_default=False,
        ),
    ] = None,
    eval_k: Annotated[
        int | None,
        typer.Option(
            help="Samples per test image in the evaluation after training; 0 skips the evaluation.",
            show_default=str(EVALUATION_K),
        ),
    ] = None,
    eval_observations: Annotated[
        int | None,
        typer.Option(
            help="The most test images in the evaluation after training; `iwae-fast evaluate` uses all.",
            show_default=str(OBSERVATIONS),
        ),
    ] = None,
    sample_ranks: SampleRanks = 1,
    **bound_settings: float | None,
) -> None:
    """Train an autoencoder, evaluate it on the test set and draw pictures.

    Ctrl-C stops after a complete step with everything saved.
    """
    from ... import checks
    from ..processes import started
    from ..protocols import passes
    from ..setting_text import parse_setting
    from ..train.run_data import stored_name

    if data_file is not None and dataset is not None:
        raise ValueError("--data and --dataset exclude each other: give one of them")
    named = dataset if data_file is None else str(data_file)
    settings: dict[str, Any] = {
        "dataset": None if named is None else stored_name(named),
        "protocol": protocol,
        "network": network,
        "likelihood": likelihood,
        "prior": prior,
        "validation": validation,
        "bound": bound,
        **bound_settings,
        "estimator": estimator,
        "budget": budget,
        "chunk_size": chunk_size,
        "kl_warmup": kl_warmup,
        "k": k,
        "stages": stages,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "hidden": None if hidden is None else parse_setting("hidden", hidden),
        "latent": None if latent is None else parse_setting("latent", latent),
        "seed": seed,
        "device": device,
        "backend": backend,
        "capture": capture,
        "eval_k": eval_k,
        "eval_observations": eval_observations,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    named_settings = set(given)
    if stages is not None and epochs is None:
        given["epochs"] = passes(checks.positive("stages", stages))
    if resume is not None and (output is not None or start_from is not None):
        raise ValueError("--output and --start-from cannot be used with --resume, which keeps the run in its folder")
    with started(sample_ranks) as processes:
        _begin_or_resume(given, named_settings, resume, start_from, output, processes)


def _begin_or_resume(
    given: dict[str, Any],
    named_settings: set[str],
    resume: Path | None,
    start_from: Path | None,
    output: Path | None,
    processes: Processes,
) -> None:
    """Train a new or an earlier run, to the end."""
    from ..config import TrainConfig, usable_device
    from ..train import training
    from ..train.runs import check_is_run, continue_elsewhere, create_run, default_folder, sole_trainer
    from ..unused import check_training
    from .progress import console

    checkpoint: Checkpoint | None
    if resume is not None:
        folder = check_is_run(resume).folder
        with processes.holding(sole_trainer(folder)):  # before reading: no other process may change the run meanwhile
            run, checkpoint, config, images = _reopen(folder, given, named_settings, processes)
            _train(run, config, images, checkpoint, processes)
        return
    if start_from is None:
        earlier, checkpoint = None, None
        config = TrainConfig.preset(given.pop("dataset", "digits"), **given)
        check_training(named_settings, config)
        processes.use(config.device)
        usable_device(config.device, config.backend)
        images = processes.leaders_first(config.load_data)
        training.check(config, images)
    else:
        earlier, checkpoint, config, images = _reopen(start_from, given, named_settings, processes)
    # The name of a default folder has the time, which differs between processes.
    folder = processes.from_first(lambda: _new_folder(output or default_folder(config)))
    with processes.holding(sole_trainer(folder)):
        run = processes.from_first(
            lambda: create_run(folder, config) if earlier is None else continue_elsewhere(earlier, folder, config)
        )
        console.print(f"training in {run.folder}")
        _train(run, config, images, checkpoint, processes)


def _new_folder(folder: Path) -> Path:
    """Make a new folder; raises FileExistsError if it is there and not empty."""
    from ..train.runs import check_empty

    check_empty(folder)  # every check precedes the folder, so that a refused run does not leave an empty one
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _train(
    run: Run, config: TrainConfig, images: ImageData, checkpoint: Checkpoint | None, processes: Processes
) -> None:
    """Train to the end, evaluate and draw pictures; the caller holds :func:`.runs.sole_trainer`."""
    from ..processes import is_loss_of_another
    from ..train import training
    from .progress import console, training_progress

    command = f"{launched.command()} train --resume {shlex.quote(str(run.folder))}"
    with stop_on_signals() as stop, training_progress(config.epochs) as reporter:
        try:
            training.train(
                config, run, images, resume_from=checkpoint, reporter=reporter, stop=stop, processes=processes
            )
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
        _close(run, config, images, processes)
    except (KeyboardInterrupt, Terminated) as error:
        message = f"training is done but its evaluation is not; resume with: {command}"
        raise Interrupted(message, error.number if isinstance(error, Terminated) else signal.SIGINT) from None
    console.print(f"run folder {run.folder}")


def _reopen(
    folder: Path, given: dict[str, Any], named_settings: set[str], processes: Processes
) -> tuple[Run, Checkpoint, TrainConfig, ImageData]:
    """Open an earlier run with its data and with changed settings; raises ValueError for settings that may not change.

    Nothing is written.
    """
    from ..config import CHANGEABLE, usable_device
    from ..train import training
    from ..train.run_data import load_own_data
    from ..train.runs import open_run
    from ..unused import check_training

    run, checkpoint = processes.from_first(lambda: open_run(folder))
    earlier = checkpoint.config
    config = replace(earlier, **given)
    fixed = config.differences(earlier)
    if fixed:
        raise ValueError(
            f"a run cannot be resumed with another {', '.join(fixed)}: only {', '.join(CHANGEABLE)} may change"
        )
    if config.epochs < earlier.epochs:
        raise ValueError(f"epochs can only be raised: the run has {earlier.epochs}, got {config.epochs}")
    check_training(named_settings, config)
    processes.use(config.device)
    usable_device(config.device, config.backend)
    images = processes.leaders_first(lambda: load_own_data(replace(checkpoint, config=config), run.checkpoint))
    training.check(config, images)
    return run, checkpoint, config, images


def _close(run: Run, config: TrainConfig, images: ImageData, processes: Processes) -> None:
    """Draw the pictures and evaluate, from the files of the run."""
    from ..evaluate.results import draw_loss_curve, draw_reconstructions, draw_samples
    from ..train.runs import open_run, trained_model
    from .closing import evaluate_and_print
    from .progress import console

    _, checkpoint = processes.from_first(lambda: open_run(run.folder))
    model = trained_model(checkpoint)
    if processes.is_first:
        draw_loss_curve(run, checkpoint)
        draw_reconstructions(run, model, images)
        draw_samples(run.samples, checkpoint, model, SAMPLE_ROWS, SAMPLE_COLUMNS, checkpoint.config.seed)
    if config.eval_k:
        few = config.eval_observations
        evaluate_and_print(
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
        if few < len(images.test):
            console.print(
                f"to evaluate on all {len(images.test)} test observations: "
                f"iwae-fast evaluate {shlex.quote(str(run.folder))}"
            )
