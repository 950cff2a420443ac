"""The tables, their entries and the runs behind each entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..protocols import passes
from . import published
from .published import IWAE, VAE, Figure, Place
from .scales import Scale

BOUNDS = {VAE: "elbo", IWAE: "iwae"}
LATENT = {1: (50,), 2: (100, 50)}
NETWORKS = {"dense": "IWAE", "iwaer": "IWAER", "iwaer-rec": "IWAER-rec"}
DATASETS = {"mnist": "MNIST", "omniglot": "OMNIGLOT", "binarized-mnist": "fixed binarized MNIST", "digits": "digits"}

Settings = Mapping[str, Any]
"""Settings of a :class:`iwae_fast.experiments.config.TrainConfig` that differ from its preset."""


@dataclass(frozen=True)
class RunOfTable:
    """A run behind entries of tables."""

    name: str
    """Name of its folder, shared by the tables of a scale: the same name is the same run."""
    settings: Settings
    after: RunOfTable | None = None
    """The run from which this one continues; ``settings`` are then the changed ones."""


@dataclass(frozen=True)
class Entry:
    """A cell of a table."""

    row: str
    column: str
    dataset: str
    runs: tuple[RunOfTable, ...]
    """Trials that differ only in their seed."""
    published: Figure | None
    beside: RunOfTable | None = None
    """The run with which the first trial is compared per image."""


@dataclass(frozen=True)
class Table:
    """A published table."""

    title: str
    source: str
    entries: Callable[[Scale], list[Entry]]
    k: int | None = None
    """The most samples per observation in the evaluation; None for the number of the scale."""
    notes: tuple[str, ...] = field(default=())
    """Reasons other than the scale for differences from the published figures."""


def run_of(
    place: Place, scale: Scale, protocol: str, prefix: str = "", budget: int | None = None, **others: Any
) -> RunOfTable:
    """Return a run with a network of Burda, Grosse & Salakhutdinov (2016); for k = 1 VAE and IWAE are the same run."""
    dataset, model, layers, k = place
    bound = "iwae" if k == 1 else BOUNDS[model]
    settings: dict[str, Any] = {"dataset": dataset, "protocol": protocol, "epochs": passes(scale.stages)}
    settings |= {"bound": bound, "k": k, "latent": LATENT[layers], **others}
    # The samples of the ELBO have equal weights, so a budget has nothing to choose from.
    if budget is not None and budget < k and bound == "iwae":
        settings["budget"] = budget
    name = f"{prefix}{dataset}-{bound}-{layers}-k{k}" + (f"-b{settings['budget']}" if "budget" in settings else "")
    return RunOfTable(name, settings)


def _grid(
    figures: Mapping[Place, Figure], protocol: str, prefix: str = "", exact: Place | None = None
) -> Callable[[Scale], list[Entry]]:
    """Return the entries of a table of layers and k by data sets and bounds; ``exact`` is also run without a budget."""

    def entries(scale: Scale) -> list[Entry]:
        made = []
        for place, figure in figures.items():
            dataset, model, layers, k = place
            if k not in scale.ks:
                continue
            column = f"{DATASETS[dataset]}, {model}"
            row = f"{layers} layer{'s' if layers > 1 else ''}, k = {k}"
            run = run_of(place, scale, protocol, prefix, scale.budget)
            with_one = run_of((dataset, model, layers, 1), scale, protocol, prefix)
            made.append(Entry(row, column, dataset, (run,), figure, with_one))
            if place == exact and "budget" in run.settings:
                all_samples = run_of(place, scale, protocol, prefix)
                made.append(Entry(f"{row}, all samples backward", column, dataset, (all_samples,), figure, run))
        return made

    return entries


def _switched(scale: Scale) -> list[Entry]:
    """Return the entries of runs that continue with the other objective for one more stage as long as the last one."""
    figures = published.BURDA_TABLE_2
    k = max(scale.ks)
    vae = run_of(("mnist", VAE, 1, 1), scale, "paper")
    iwae = run_of(("mnist", IWAE, 1, k), scale, "paper", budget=scale.budget)
    longer = passes(scale.stages) + 3 ** (scale.stages - 1)
    then = {"epochs": longer, "stages": scale.stages}
    then_iwae = {"bound": "iwae", "k": k, **then}
    if "budget" in iwae.settings:
        then_iwae["budget"] = scale.budget
    runs = {
        "VAE": vae,
        "VAE, then IWAE": RunOfTable(f"{vae.name}-then-{iwae.name}", then_iwae, vae),
        "IWAE": iwae,
        "IWAE, then VAE": RunOfTable(f"{iwae.name}-then-{vae.name}", {"bound": "elbo", "k": 1, **then}, iwae),
    }
    return [Entry(row, "MNIST, 1 layer", "mnist", (run,), figures[row], run.after) for row, run in runs.items()]


def _iwaer(scale: Scale) -> list[Entry]:
    def trial(dataset: str, network: str, seed: int) -> RunOfTable:
        settings = {"dataset": dataset, "protocol": "iwaer", "network": network, "epochs": scale.epochs, "seed": seed}
        return RunOfTable(f"iwaer-{dataset}-{network}-seed{seed}", settings)

    made = []
    for (dataset, network), figure in published.IWAER_TABLE_1.items():
        trials = tuple(trial(dataset, network, seed) for seed in range(scale.trials))
        plain = trial(dataset, "dense", 0)
        made.append(Entry(NETWORKS[network], DATASETS[dataset], dataset, trials, figure, plain))
    return made


def _digits(scale: Scale) -> list[Entry]:
    """Return the entries of an unpublished table like the first one of Burda et al., on data without a download."""
    made = []
    for model in (VAE, IWAE):
        for k in scale.ks:
            run, with_one = (
                run_of(("digits", model, 1, count), scale, "paper", budget=scale.budget, latent=(20,))
                for count in (k, 1)
            )
            made.append(Entry(f"1 layer, k = {k}", f"digits, {model}", "digits", (run,), None, with_one))
    return made


PIXELS = "Training pixels are drawn afresh in each pass; those of the test set are drawn once, the same for every run."
BUDGET = (
    "With a budget the gradient of IWAE uses only some of the samples: it is unbiased but noisier. The row of all "
    "samples backward shows the effect."
)
OMNIGLOT = (
    "Without chardata.mat OMNIGLOT is resampled and split differently than in the paper: likelihoods are close to the "
    "published ones, but not comparable to within a nat."
)

BURDA = "Burda, Grosse & Salakhutdinov (2016), Importance Weighted Autoencoders"

TABLES = {
    "burda-table-1": Table(
        "NLL and active units of VAE and IWAE",
        f"{BURDA}, Table 1",
        _grid(published.BURDA_TABLE_1, "paper", exact=("mnist", IWAE, 1, 50)),
        notes=(BUDGET, OMNIGLOT, PIXELS),
    ),
    "burda-table-2": Table(
        "NLL after a change of the objective",
        f"{BURDA}, Table 2",
        _switched,
        notes=(
            "After the change training continues for as many passes as the last stage has, at its learning rate.",
            BUDGET,
        ),
    ),
    "burda-table-3": Table(
        "NLL with fixed binarization",
        f"{BURDA}, Table 3",
        _grid(published.BURDA_TABLE_3, "paper"),
        notes=("Training images are the 50,000 of Larochelle & Murray's split, without their validation set.",),
    ),
    "dd2434-table-1": Table(
        "NLL of VAE and IWAE in a reproduction",
        "A reproduction report (DD2434, 2024)",
        _grid(published.DD2434_TABLE_1, "dd2434", prefix="dd2434-"),
        notes=(BUDGET, OMNIGLOT),
    ),
    "iwaer-table-1": Table(
        "NLL of IWAE with random network weights",
        "Importance weighted autoencoders with random neural network parameters (Hernandez-Lobato et al.), Table 1",
        _iwaer,
        k=2000,
        notes=(
            "Networks are 784-400-(20)-400-784 with tanh. Weights are drawn independently for each image (local "
            "reparameterization), which does not change the objective.",
            OMNIGLOT,
        ),
    ),
    "digits": Table("NLL of VAE and IWAE on 8x8 digits", "Not published; for a first try", _digits),
}
"""Tables by their names on the command line."""
