"""The settings of a training run: everything on which its result depends."""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from .. import backends, bounds, checks
from ..data import DATASETS, FILES, DataError, FileOptions, ImageData, is_file, load, load_file
from ..data.own import LARGEST_BYTE
from ..data.rows import chunks
from ..likelihoods import LIKELIHOODS
from ..objectives.estimators import ESTIMATORS
from ..objectives.objective import Objective
from ..objectives.schedules import LinearWarmup
from ..seeds import SEED_LIMIT
from .bound_settings import BOUNDS, SETTINGS, BoundSettings
from .defaults import EVALUATION_K, OBSERVATIONS
from .networks import NETWORKS, PRIORS, check_network
from .protocols import PROTOCOLS, STAGES
from .schedules import SCHEDULES, check_schedule

PAPER = {"epochs": 50, "batch_size": 20, "hidden": ((200, 200),), "latent": (50,), "learning_rate": 1e-3}
"""The one-layer network, batch size and first learning rate of Burda, Grosse & Salakhutdinov (2016)."""

PRESETS: dict[str, dict[str, Any]] = {
    # About a minute on two cores, evaluation included.
    "digits": {"epochs": 100, "batch_size": 50, "hidden": ((200, 200),), "latent": (20,), "learning_rate": 3e-3},
}
"""Settings for data sets that PAPER does not fit."""

OBJECTIVE = ("bound", "k", *SETTINGS, "estimator", "budget", "chunk_size", "kl_warmup")

CLOSING = ("eval_k", "eval_observations")
"""Settings of the evaluation after training."""

SELECTION = ("keep_best", "patience")
"""Settings of which checkpoint is kept, and of when training stops."""

FILE_SETTINGS = ("test", "split", "labels", "array", "missing", "divide_by")
"""Settings of reading a file, which are fields of :class:`iwae_fast.data.FileOptions`."""

CHANGEABLE = ("epochs", "stages", *SELECTION, "device", "backend", "capture", "compile", *OBJECTIVE, *CLOSING)
"""Settings that may change at a resumption, such as the objective (Table 2 of Burda, Grosse & Salakhutdinov 2016)."""


@dataclass(frozen=True)
class TrainConfig(BoundSettings):
    """Settings of a run, with those of bounds. Creation raises a ValueError or TypeError that names an invalid setting.

    :meth:`preset` fills in the settings for a data set.
    """

    dataset: str
    """Name of a data set, or path of a file or of a folder of images."""
    epochs: int
    batch_size: int
    hidden: tuple[tuple[int, ...], ...]
    """Sizes of the encoder's deterministic layers below each stochastic layer, mirrored in the decoder; (h, ...) is
    accepted for a single stochastic layer."""
    latent: tuple[int, ...]
    """Size of each stochastic layer, the one nearest to the data first; an int is accepted for a single layer."""
    learning_rate: float
    """Learning rate in the first stage of the protocol."""
    protocol: str = "constant"
    """One of :data:`iwae_fast.experiments.protocols.PROTOCOLS`: optimizer, learning rate by stage, initialization."""
    stages: int = STAGES
    """Number of stages of the protocol; later epochs have the learning rate of the last one."""
    lr_schedule: str = "constant"
    """One of :data:`iwae_fast.experiments.schedules.SCHEDULES`, over the steps of the run."""
    lr_warmup: int = 0
    """Steps over which the learning rate rises linearly from 0, before the schedule begins."""
    lr_final: float = 0.01
    """Fraction of the learning rate that the schedule reaches at the end."""
    max_norm: float | None = None
    """Norm to which the gradient of each step is clipped, as by :class:`iwae_fast.optim.Adam`; None to leave it."""
    test: str | None = None
    """Path of a file whose observations are the test set of the file ``dataset``."""
    split: float | str | None = None
    """Fraction of the file's observations that is the test set, or name of the column that divides them."""
    labels: str | None = None
    """Name of the column or array of labels, for plots."""
    array: str | None = None
    """Name of the array of observations; of a table, its columns, separated by commas."""
    missing: str | None = None
    """Value that stands for a missing one: "nan", a number, or a text in a table; None if none is missing."""
    divide_by: float | None = None
    """Divisor of all numbers of the file, such as 255; None to divide bytes only."""
    validation: int = 0
    """Number of training observations held out for validation, replacing a data set's own validation set."""
    keep_best: bool = False
    """True to keep the checkpoint of the epoch with the highest validation bound, which is then the trained model."""
    patience: int | None = None
    """Epochs in a row without a higher validation bound after which training stops; None to train all epochs. The best
    checkpoint is kept as with ``keep_best``."""
    network: str = "dense"
    """One of :data:`iwae_fast.experiments.networks.NETWORKS`."""
    likelihood: str = "bernoulli"
    """One of :data:`iwae_fast.likelihoods.LIKELIHOODS`."""
    prior: str = "standard"
    """One of :data:`iwae_fast.experiments.networks.PRIORS`."""
    bound: str = "iwae"
    """One of :data:`iwae_fast.experiments.bound_settings.BOUNDS`, whose settings are inherited."""
    k: int = 50
    """Samples per observation; for sumo, the maximum. It is ``num_samples`` of an objective, under the name that it has
    on the command line and in the JSON of runs."""
    estimator: str = "reparameterized"
    """One of :data:`iwae_fast.estimators.ESTIMATORS`."""
    budget: int | None = None
    """Samples per observation in the backward pass; None for all."""
    chunk_size: int | None = None
    """Samples evaluated at once, to save memory; None for all."""
    kl_warmup: int = 0
    """Steps over which the weight of log p(z) - log q(z | x) rises from 0 to 1."""
    seed: int = 0
    device: str = "cpu"
    backend: str | None = None
    """Name of the backend to force; None for the automatic choice."""
    capture: bool = True
    """True to capture steps as CUDA graphs where possible; the results are the same either way."""
    compile: bool = False
    """True to run the networks through torch.compile in training steps; the results are the same to rounding."""
    eval_k: int = EVALUATION_K
    """Samples per test observation in the evaluation after training; 0 skips the evaluation."""
    eval_observations: int = OBSERVATIONS
    """The most test observations in the evaluation after training."""

    def __post_init__(self) -> None:
        self._check_data()
        checks.one_of("protocol", self.protocol, PROTOCOLS)
        checks.one_of("lr_schedule", self.lr_schedule, SCHEDULES)
        checks.one_of("network", self.network, NETWORKS)
        checks.one_of("likelihood", self.likelihood, LIKELIHOODS)
        checks.one_of("prior", self.prior, PRIORS)
        checks.one_of("bound", self.bound, BOUNDS)
        object.__setattr__(self, "hidden", _by_stochastic_layer(self.hidden))
        object.__setattr__(self, "latent", (self.latent,) if isinstance(self.latent, int) else tuple(self.latent))
        for name in ("epochs", "batch_size", "k"):
            checks.positive(name, getattr(self, name))
        if checks.positive("stages", self.stages) > STAGES:
            raise ValueError(f"stages must be at most {STAGES}, got {self.stages}")
        for size in self.latent:
            checks.positive("latent", size)
        if len(self.hidden) != len(self.latent) or not all(self.hidden):
            raise ValueError(
                f"hidden must have layer sizes for each of {len(self.latent)} stochastic layers, got {self.hidden}"
            )
        for size in (size for sizes in self.hidden for size in sizes):
            checks.positive("hidden", size)
        checks.positive("eval_observations", self.eval_observations)
        for name in ("kl_warmup", "lr_warmup", "validation", "eval_k"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("learning_rate", "max_norm"):
            value = getattr(self, name)
            if value is not None and not (value > 0.0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if not 0.0 < self.lr_final <= 1.0:
            raise ValueError(f"lr_final must be above 0 and at most 1, got {self.lr_final}")
        if self.patience is not None:
            checks.positive("patience", self.patience)
        check_schedule(self)
        if not 0 <= self.seed < SEED_LIMIT:
            raise ValueError(f"seed must be in [0, 2^63), got {self.seed}")
        check_network(self)
        self.objective()  # raises if its settings are incompatible
        if not isinstance(self.compile, bool):
            raise TypeError(f"compile must be true or false, got {self.compile!r}")
        if ESTIMATORS[self.estimator].reparameterize_prior and len(self.latent) == 1:
            raise ValueError(f"estimator {self.estimator!r} requires conditional priors between several latent layers")

    def _check_data(self) -> None:
        """Raise ValueError if the data set is unknown, or options of files are not valid or have no effect on it."""
        _known_or_file(self.dataset)
        given = [name for name in FILE_SETTINGS if getattr(self, name) is not None]
        if given and not is_file(self.dataset):
            raise ValueError(
                f"--{given[0].replace('_', '-')} is an option of files given by --data, and has no effect on data set "
                f"{self.dataset!r}"
            )
        self.file_options()

    def file_options(self) -> FileOptions:
        """Return the options by which a file is read, for the likelihood; raises ValueError for those not valid."""
        discrete = LIKELIHOODS[self.likelihood]().support.is_discrete if self.likelihood in LIKELIHOODS else False
        return FileOptions(**{name: getattr(self, name) for name in FILE_SETTINGS}, whole_numbers=discrete)

    def load_data(self, dataset: str | None = None, options: FileOptions | None = None) -> ImageData:
        """Load the data set in the form that the likelihood requires.

        Only "bernoulli" treats gray levels as probabilities of binary pixels. A discrete likelihood treats the bytes of
        a file as numbers from 0 to 255. The numbers of a file keep their dtype until batches are taken.

        Args:
            dataset: another data set or file than the run's.
            options: options of a file in place of the run's.

        Raises DataError if files are missing or damaged, or hold values outside the support of the likelihood.
        """
        support = LIKELIHOODS[self.likelihood]().support
        name = self.dataset if dataset is None else dataset
        found = load_file(name, options or self.file_options()) if is_file(name) else load(name)
        for part in (found.train, found.test, *(() if found.valid is None else (found.valid,))):
            for some in chunks(part):
                inside = support.check(some)
                if found.missing:
                    inside = inside | some.isnan()
                if not inside.all():
                    value = some[~inside][0].item()
                    raise DataError(
                        f"likelihood {self.likelihood!r} does not support the value {value:g} in {name}: {advice(some)}"
                    )
        return replace(found, grey_levels=found.grey_levels and self.likelihood == "bernoulli")

    @property
    def keeps_best(self) -> bool:
        """True if the trained model is that of the best epoch, which is then kept beside the last one."""
        return self.keep_best or self.patience is not None

    def objective(self) -> Objective:
        """Return the objective of the run."""
        class_name, settings = BOUNDS[self.bound]
        return Objective(
            getattr(bounds, class_name)(**{name: getattr(self, name) for name in settings}),
            self.estimator,
            num_samples=self.k,
            budget=self.budget,
            chunk_size=self.chunk_size,
            kl_weight=LinearWarmup(self.kl_warmup) if self.kl_warmup else 1.0,
            reduction=PROTOCOLS[self.protocol].reduction,
        )

    @classmethod
    def preset(cls, dataset: str, **overrides: Any) -> TrainConfig:
        """Return the settings for a data set, overridden by those of the protocol and then by ``overrides``.

        Further stochastic layers have layers of 100-100 below them, as in Burda, Grosse & Salakhutdinov (2016).
        """
        _known_or_file(dataset)
        checks.one_of("protocol", name := overrides.get("protocol", "constant"), PROTOCOLS)
        protocol = PROTOCOLS[name]
        protocol_settings = {**protocol.settings, **protocol.by_dataset.get(dataset, {})}
        settings: dict[str, Any] = {**PRESETS.get(dataset, PAPER), **protocol_settings, **overrides}
        if "hidden" not in overrides and not isinstance(settings["latent"], int):
            first = _by_stochastic_layer(settings["hidden"])[:1]
            settings["hidden"] = (*first, *((100, 100),) * (len(settings["latent"]) - 1))
        return cls(dataset=dataset, **settings)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TrainConfig:
        """Invert :meth:`to_json`; raises ValueError if a setting is unknown, or missing without a default."""
        names = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        differing = (content.keys() - names) | (needed - content.keys())
        if differing:
            raise ValueError(f"settings missing or unknown: {', '.join(sorted(differing))}")
        return cls(**content)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "hidden": [list(sizes) for sizes in self.hidden], "latent": list(self.latent)}

    def relevant(self) -> dict[str, Any]:
        """Return the settings on which the run depends, without those of other bounds and protocols."""
        settings, found = self.to_json(), {}
        one_rate = len(PROTOCOLS[self.protocol].factors) == 1
        for name, value in settings.items():
            if name in SETTINGS or (name == "stages" and one_rate):
                continue
            if name == "lr_final" and self.lr_schedule == "constant":
                continue
            if name in FILE_SETTINGS and value is None:
                continue
            found[name] = value
            if name == "bound":  # a report shows its settings beside it
                found.update({own: settings[own] for own in BOUNDS[value].settings})
        return found

    def differences(self, other: TrainConfig) -> list[str]:
        """Name the settings that make this a different run from ``other``.

        A file may have moved, so paths of files are not compared; the fingerprint of the data is checked elsewhere.
        """
        mine, others = self.to_json(), other.to_json()
        if is_file(self.dataset) and is_file(other.dataset):
            mine["dataset"] = others["dataset"]
            if self.test is not None and other.test is not None:
                mine["test"] = others["test"]
        return [name for name in mine if name not in CHANGEABLE and mine[name] != others[name]]


def usable_device(name: str, backend: str | None) -> torch.device:
    """Return the device of this name; raises ValueError or BackendError if it, or the backend on it, is missing."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}: choose cpu, cuda or cuda:N")
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise ValueError(f"device {name!r} is not available: torch sees {torch.cuda.device_count()} CUDA devices")
    backends.choose(backend, (torch.empty(0, device=device),))
    return device


def _known_or_file(dataset: str) -> None:
    if not is_file(dataset):
        others = f", or the path of a file ({', '.join(FILES)}) or of a folder of images"
        checks.one_of("data set", dataset, DATASETS, others)


def advice(values: Tensor) -> str:
    """Return what to do about values (B, D) that a likelihood does not support, as far as they show what they are."""
    observed = values[~values.isnan()]
    if not bool((observed == observed.round()).all()) or observed.min() < 0:
        return "choose another one, such as --likelihood gaussian"
    if observed.max() > LARGEST_BYTE:
        return "they are counts: choose another one, such as --likelihood negative-binomial or gaussian"
    return (
        "the numbers are whole, in 0 to 255: make gray levels of them by --divide-by 255, or choose another one, such "
        "as --likelihood gaussian or negative-binomial"
    )


def _by_stochastic_layer(hidden: Any) -> tuple[tuple[int, ...], ...]:
    sizes = tuple(hidden)
    if all(isinstance(size, int) for size in sizes):
        return (sizes,)
    return tuple(tuple(layer) for layer in sizes)
