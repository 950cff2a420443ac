"""``iwae-fast train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..defaults import EVALUATION_K, OBSERVATIONS
from . import choices
from .bound_options import with_bound_options
from .options import MISSING, SAMPLE_RANKS

PRESET = "depends on the data set"
DATA, MODEL, OBJECTIVE = "Data", "Model", "Objective"
OPTIMIZATION, SELECTION, EVALUATION = "Optimization", "Choice of the best epoch", "Evaluation after training"
FOLDERS, MACHINE = "Folders, settings and logs", "Machine"


def _in(panel: str, *declarations: str, **settings: Any) -> Any:
    """Return an option that help shows in a panel."""
    return typer.Option(*declarations, rich_help_panel=panel, **settings)


def _one_of(panel: str, names: tuple[str, ...], default: str, explained: str = "{names}.") -> Any:
    """Return an option that accepts one of the names, with its help and completion."""
    return _in(
        panel,
        help=explained.format(names=", ".join(names)),
        show_default=default,
        autocompletion=choices.completing(names),
    )


@with_bound_options(OBJECTIVE)
def train(
    dataset: Annotated[str | None, _one_of(DATA, choices.DATASETS, "digits")] = None,
    data_file: Annotated[
        Path | None,
        _in(
            DATA,
            "--data",
            metavar="FILE",
            help=f"Data file ({', '.join(choices.FILES)}) or folder of images in place of a data set; with --resume, "
            "the new path of the run's data.",
            show_default=False,
        ),
    ] = None,
    test: Annotated[
        Path | None,
        _in(DATA, metavar="FILE", help="Another file, whose observations are the test set.", show_default=False),
    ] = None,
    split: Annotated[
        str | None,
        _in(
            DATA,
            help="Fraction of the file's observations for the test, or the column or array that says train, test or "
            "valid for each.",
            show_default="0.1",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        _in(
            DATA,
            metavar="NAME",
            help="Column or array of labels, which color plots and are not part of an observation.",
            show_default="by usual names",
        ),
    ] = None,
    array: Annotated[
        str | None,
        _in(
            DATA,
            metavar="NAME",
            help="Array of observations in the file; of a table, its columns, separated by commas.",
            show_default="by usual names",
        ),
    ] = None,
    missing: Annotated[str | None, _in(DATA, metavar="VALUE", help=MISSING, show_default="none")] = None,
    divide_by: Annotated[
        float | None,
        _in(
            DATA, help="Divisor of all numbers of the file, such as 255 for gray levels.", show_default="255 for bytes"
        ),
    ] = None,
    validation: Annotated[
        int | None,
        _in(DATA, help="Number of training images held out and evaluated after each epoch.", show_default="0"),
    ] = None,
    network: Annotated[
        str | None,
        _one_of(
            MODEL,
            choices.NETWORKS,
            "dense",
            "{names} (the last two with random weights, everywhere or in the encoder only).",
        ),
    ] = None,
    likelihood: Annotated[str | None, _one_of(MODEL, choices.LIKELIHOODS, "bernoulli")] = None,
    prior: Annotated[str | None, _one_of(MODEL, choices.PRIORS, "standard")] = None,
    hidden: Annotated[
        str | None,
        _in(
            MODEL,
            help="Sizes of the encoder's hidden layers, such as 200,200, or 200,200/100,100 with two latent layers.",
            show_default=PRESET,
        ),
    ] = None,
    latent: Annotated[
        str | None, _in(MODEL, help="Size of z, or of each latent layer, such as 100,50.", show_default=PRESET)
    ] = None,
    bound: Annotated[str | None, _one_of(OBJECTIVE, choices.BOUNDS, "iwae")] = None,
    estimator: Annotated[
        str | None,
        _one_of(
            OBJECTIVE,
            choices.ESTIMATORS,
            "reparameterized",
            "reparameterized, stl or dreg; with iwae also aisle-kl, aisle-chi2, rws, rws-dreg or vimco; "
            "with several latent layers also gdreg.",
        ),
    ] = None,
    k: Annotated[int | None, _in(OBJECTIVE, "--k", "-k", help="Samples per image.", show_default="50")] = None,
    budget: Annotated[
        int | None,
        _in(
            OBJECTIVE,
            help="Samples per image in the backward pass; the gradient stays unbiased.",
            show_default="all",
        ),
    ] = None,
    chunk_size: Annotated[
        int | None, _in(OBJECTIVE, help="Samples per image evaluated at once, to save memory.", show_default="all")
    ] = None,
    kl_warmup: Annotated[
        int | None,
        _in(OBJECTIVE, help="Steps over which the weight of the KL divergence rises from 0 to 1.", show_default="0"),
    ] = None,
    protocol: Annotated[
        str | None,
        _one_of(
            OPTIMIZATION,
            choices.PROTOCOLS,
            "constant",
            "Training protocol of a paper, for settings not given here: {names}.",
        ),
    ] = None,
    stages: Annotated[
        int | None,
        _in(
            OPTIMIZATION,
            help="Number of stages of the protocol to run: 1 + 3 + 9 + ... passes, unless --epochs is given.",
            show_default="8",
        ),
    ] = None,
    epochs: Annotated[int | None, _in(OPTIMIZATION, help="Passes over the training set.", show_default=PRESET)] = None,
    batch_size: Annotated[int | None, _in(OPTIMIZATION, help="Images per step.", show_default=PRESET)] = None,
    learning_rate: Annotated[
        float | None, _in(OPTIMIZATION, help="Learning rate of Adam.", show_default=PRESET)
    ] = None,
    lr_schedule: Annotated[
        str | None,
        _one_of(OPTIMIZATION, choices.SCHEDULES, "constant", "How the learning rate falls over the run: {names}."),
    ] = None,
    lr_warmup: Annotated[
        int | None,
        _in(OPTIMIZATION, help="Steps over which the learning rate rises, before the schedule.", show_default="0"),
    ] = None,
    lr_final: Annotated[
        float | None,
        _in(OPTIMIZATION, help="Fraction of the learning rate at the end of the schedule.", show_default="0.01"),
    ] = None,
    max_norm: Annotated[
        float | None, _in(OPTIMIZATION, help="Norm to which the gradient of a step is clipped.", show_default="none")
    ] = None,
    seed: Annotated[
        int | None, _in(OPTIMIZATION, help="Seed of the run; the same seed gives the same run.", show_default="0")
    ] = None,
    keep_best: Annotated[
        bool | None,
        _in(
            SELECTION,
            "--keep-best/--no-keep-best",
            help="Keep the epoch with the highest validation bound, and evaluate it in place of the last one.",
            show_default="no-keep-best",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        _in(
            SELECTION,
            help="Stop after so many epochs without a higher validation bound; keeps the best epoch.",
            show_default="none",
        ),
    ] = None,
    eval_k: Annotated[
        int | None,
        _in(EVALUATION, help="Samples per test image; 0 skips the evaluation.", show_default=str(EVALUATION_K)),
    ] = None,
    eval_observations: Annotated[
        int | None,
        _in(
            EVALUATION,
            help="The most test images; `iwae-fast evaluate` uses all.",
            show_default=str(OBSERVATIONS),
        ),
    ] = None,
    config: Annotated[
        Path | None,
        _in(
            FOLDERS,
            metavar="FILE",
            help="Settings from a TOML file, by the names of these options, or from the config.json of a run; options "
            "take precedence.",
            show_default=False,
        ),
    ] = None,
    print_config: Annotated[
        bool, _in(FOLDERS, "--print-config", help="Print all settings as such a file, and do not train.")
    ] = False,
    output: Annotated[
        Path | None,
        _in(FOLDERS, "--output", "-o", help="New folder of the run.", show_default="runs/DATASET-BOUND-kK-TIME"),
    ] = None,
    resume: Annotated[
        Path | None,
        _in(
            FOLDERS,
            metavar="RUN",
            help="Resume an earlier run exactly; --epochs may be raised, and the objective changed.",
            show_default=False,
        ),
    ] = None,
    start_from: Annotated[
        Path | None,
        _in(
            FOLDERS,
            metavar="RUN",
            help="Resume an earlier run in a new folder; the earlier run stays unchanged.",
            show_default=False,
        ),
    ] = None,
    log: Annotated[
        list[str] | None,
        _in(
            FOLDERS,
            "--log",
            "--track",  # torchrun takes --log, also after the name of the program, for its own --log-dir
            metavar="TRACKER",
            help=f"Log to {', '.join(choices.TRACKERS)}. May be given several times; a resumed run goes on in its "
            "trackers, unless this is none.",
            show_default="none",
            autocompletion=choices.completing((*choices.TRACKERS, "none")),
        ),
    ] = None,
    device: Annotated[str | None, _in(MACHINE, help="cpu, cuda or cuda:N.", show_default="cpu")] = None,
    backend: Annotated[
        str | None, _one_of(MACHINE, choices.BACKENDS, "automatic", "Force a backend; see `iwae-fast info`.")
    ] = None,
    capture: Annotated[
        bool | None,
        _in(
            MACHINE,
            "--capture/--no-capture",
            help="Capture steps as CUDA graphs where possible: the same results, faster.",
            show_default="capture",
        ),
    ] = None,
    compile: Annotated[
        bool | None,
        _in(
            MACHINE,
            "--compile/--no-compile",
            help="Run the networks of training steps through torch.compile: the same results to rounding.",
            show_default="no-compile",
        ),
    ] = None,
    sample_ranks: Annotated[int, _in(MACHINE, help=SAMPLE_RANKS)] = 1,
    **bound_settings: float | None,
) -> None:
    """Train an autoencoder, evaluate it on the test set and draw pictures.

    Ctrl-C stops after a complete step with everything saved.
    """
    from ..setting_text import parse_setting
    from ..settings_file import FileSettings, read_settings, toml
    from ..trackers.table import tracker_names
    from ..train.run_data import stored_name, stored_path
    from .training_run import Asked, perform

    if data_file is not None and dataset is not None:
        raise ValueError("--data and --dataset exclude each other: give one of them")
    named = None if dataset is None else stored_name(dataset)
    settings: dict[str, Any] = {
        "dataset": named if data_file is None else stored_path(str(data_file)),
        "test": None if test is None else stored_path(str(test)),
        "split": None if split is None else parse_setting("split", split),
        "labels": labels,
        "array": array,
        "missing": missing,
        "divide_by": divide_by,
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
        "lr_schedule": lr_schedule,
        "lr_warmup": lr_warmup,
        "lr_final": lr_final,
        "max_norm": max_norm,
        "hidden": None if hidden is None else parse_setting("hidden", hidden),
        "latent": None if latent is None else parse_setting("latent", latent),
        "seed": seed,
        "keep_best": keep_best,
        "patience": patience,
        "device": device,
        "backend": backend,
        "capture": capture,
        "compile": compile,
        "eval_k": eval_k,
        "eval_observations": eval_observations,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    file = FileSettings({}, {}, False) if config is None else read_settings(config).beside(given)
    log = log or file.options.get("log")
    if output is None and "output" in file.options and resume is None:
        output = Path(file.options["output"])
    if resume is not None and (output is not None or start_from is not None):
        raise ValueError("--output and --start-from cannot be used with --resume, which keeps the run in its folder")
    asked = Asked(
        file.over(given),
        set(given) | (set() if file.is_complete else set(file.settings)),
        resume,
        start_from,
        output,
        None if log is None else tracker_names(log),
    )
    if print_config:
        options = {"log": list(asked.log or ()) or None, "output": None if output is None else str(output)}
        typer.echo(toml({**asked.config().relevant(), **options}), nl=False)
        return
    perform(asked, sample_ranks)
