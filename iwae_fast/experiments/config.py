"""What a training run is: everything that its result depends on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, cast

import torch

from .. import backends, bounds, checks
from ..data import DATASETS, FILES, DataError, ImageData, load
from ..data.rows import chunks
from ..likelihoods import LIKELIHOODS
from ..objectives.estimators import ESTIMATORS
from ..objectives.objective import Objective
from ..objectives.schedules import LinearWarmup
from ..seeds import SEED_LIMIT
from .defaults import EVALUATION_K, OBSERVATIONS
from .networks import NETWORKS, PRIORS, check_network
from .protocols import PROTOCOLS, STAGES

BOUNDS: dict[str, Callable[[TrainConfig], bounds.Bound]] = {
    "iwae": lambda _: bounds.IWAE(),
    "elbo": lambda _: bounds.ELBO(),
    "vr-iwae": lambda config: bounds.VRIWAE(config.alpha),
    "jvi": lambda config: bounds.JVI(config.order),
    "miwae": lambda config: bounds.MIWAE(config.groups),
    "piwae": lambda config: bounds.PIWAE(config.groups),
    "ciwae": lambda config: bounds.CIWAE(config.beta),
    "tvo": lambda _: bounds.TVO(),
    "cubo": lambda _: bounds.CUBO(),
    "sumo": lambda _: bounds.SUMO(),
}
"""By the names of the command line."""

PAPER = {"epochs": 50, "batch_size": 20, "hidden": ((200, 200),), "latent": (50,), "learning_rate": 1e-3}
"""The one-layer network, batch size and first learning rate of Burda, Grosse & Salakhutdinov (2016)."""

PRESETS: dict[str, dict[str, Any]] = {
    # About a minute on two cores, evaluation included.
    "digits": {"epochs": 100, "batch_size": 50, "hidden": ((200, 200),), "latent": (20,), "learning_rate": 3e-3},
}
"""What fits a data set, where it is not the paper's."""

OBJECTIVE = ("bound", "k", "alpha", "order", "groups", "beta", "estimator", "budget", "chunk_size", "kl_warmup")

CLOSING = ("eval_k", "eval_observations")
"""The settings of the evaluation after training."""

CHANGEABLE = ("epochs", "stages", "device", "backend", "capture", *OBJECTIVE, *CLOSING)
"""What may differ when a run is resumed: another objective is Burda, Grosse & Salakhutdinov's (2016) Table 2."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run, checked: a bad one is a ValueError or TypeError that names it.

    :meth:`preset` fills in what fits a data set.
    """

    dataset: str
    """The name of a data set, or the path of a file of one's own."""
    epochs: int
    batch_size: int
    hidden: tuple[tuple[int, ...], ...]
    """Sizes of the encoder's deterministic layers below each stochastic one, which the way down mirrors; (h, ...)
    stands for a single one."""
    latent: tuple[int, ...]
    """Size of each stochastic layer, the one nearest to the data first; an int stands for a single one."""
    learning_rate: float
    """Of the first stage of the protocol."""
    protocol: str = "constant"
    """One of :data:`iwae_fast.experiments.protocols.PROTOCOLS`: optimiser, learning rate by stage, first weights."""
    stages: int = STAGES
    """Of the protocol; epochs after them have the learning rate of the last."""
    validation: int = 0
    """Training observations that are held out, in place of a data set's own validation set."""
    network: str = "dense"
    """One of :data:`iwae_fast.experiments.networks.NETWORKS`."""
    likelihood: str = "bernoulli"
    """One of :data:`iwae_fast.likelihoods.LIKELIHOODS`."""
    prior: str = "standard"
    """One of :data:`iwae_fast.experiments.networks.PRIORS`."""
    bound: str = "iwae"
    """One of BOUNDS."""
    alpha: float = 0.5
    """Of vr-iwae."""
    order: int = 1
    """Of jvi."""
    groups: int = 5
    """Of miwae and piwae."""
    beta: float = 0.5
    """Of ciwae."""
    k: int = 50
    """Samples of each observation; of sumo at most."""
    estimator: str = "reparameterized"
    """One of :data:`iwae_fast.estimators.ESTIMATORS`."""
    budget: int | None = None
    """Samples that run backward; None for all."""
    chunk_size: int | None = None
    """Samples at a time; None for all at once."""
    kl_warmup: int = 0
    """Steps in which the weight of log p(z) - log q(z | x) rises from 0 to 1."""
    seed: int = 0
    device: str = "cpu"
    backend: str | None = None
    """Force a backend by name; None chooses."""
    capture: bool = True
    """Whether steps are captured as CUDA graphs where they can be; a run's results are the same."""
    eval_k: int = EVALUATION_K
    """Samples per test observation in the evaluation after training; 0 leaves it out."""
    eval_observations: int = OBSERVATIONS
    """Test observations that the evaluation after training takes at most."""

    def __post_init__(self) -> None:
        _known_or_file(self.dataset)
        checks.one_of("protocol", self.protocol, PROTOCOLS)
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
                f"hidden must have sizes below each of {len(self.latent)} stochastic layers, got {self.hidden}"
            )
        for size in (size for sizes in self.hidden for size in sizes):
            checks.positive("a hidden layer's size", size)
        checks.positive("eval_observations", self.eval_observations)
        for name in ("kl_warmup", "validation", "eval_k"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not (self.learning_rate > 0.0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate}")
        if not 0 <= self.seed < SEED_LIMIT:
            raise ValueError(f"seed must be in [0, 2^63), got {self.seed}")
        check_network(self)
        self.objective()  # which says so where its settings do not suit each other
        if ESTIMATORS[self.estimator].doubly_in_prior and len(self.latent) == 1:
            raise ValueError(f"estimator {self.estimator!r} is for a prior with parameters: for several latent layers")

    def load_data(self, dataset: str | None = None, unsplit: bool = False) -> ImageData:
        """Load the data set as the likelihood takes it.

        Grey levels are binary pixels' probabilities for "bernoulli" alone, and bytes of a file of one's own are numbers
        from 0 to 255 where the likelihood is of whole numbers. A file's numbers stay as they are stored until batches
        are taken.

        Args:
            dataset: another data set, or file, than the run's.
            unsplit: take all of a file's single array for the test set.

        Raises DataError where files are missing or damaged, or hold what the likelihood gives no probability.
        """
        support = LIKELIHOODS[self.likelihood]().support
        name = self.dataset if dataset is None else dataset
        found = load(name, whole_numbers=support.is_discrete, as_stored=True, unsplit=unsplit)
        for part in (found.train, found.test, *(() if found.valid is None else (found.valid,))):
            for some in chunks(part):
                inside = support.check(some)
                if not inside.all():
                    value = some[~inside][0].item()
                    raise DataError(f"likelihood {self.likelihood!r} does not suit {name}: it holds {value:g}")
        return replace(found, grey_levels=found.grey_levels and self.likelihood == "bernoulli")

    def objective(self) -> Objective:
        """What the run maximises, and how."""
        return Objective(
            BOUNDS[self.bound](self),
            self.estimator,
            num_samples=self.k,
            budget=self.budget,
            chunk_size=self.chunk_size,
            kl_weight=LinearWarmup(self.kl_warmup) if self.kl_warmup else 1.0,
            reduction=PROTOCOLS[self.protocol].reduction,
        )

    @classmethod
    def preset(cls, dataset: str, **overrides: Any) -> TrainConfig:
        """The settings for a data set, in place of them those of the protocol, and in place of these those given here.

        Further stochastic layers have 100-100 below them, as in Burda, Grosse & Salakhutdinov (2016).
        """
        _known_or_file(dataset)
        checks.one_of("protocol", name := overrides.get("protocol", "constant"), PROTOCOLS)
        protocol = PROTOCOLS[name]
        of_protocol = {**protocol.settings, **protocol.by_dataset.get(dataset, {})}
        settings: dict[str, Any] = {**PRESETS.get(dataset, PAPER), **of_protocol, **overrides}
        if "hidden" not in overrides and not isinstance(settings["latent"], int):
            first = _by_stochastic_layer(settings["hidden"])[:1]
            settings["hidden"] = (*first, *((100, 100),) * (len(settings["latent"]) - 1))
        return cls(dataset=dataset, **settings)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TrainConfig:
        """The inverse of :meth:`to_json`; ValueError where a setting is unknown, or missing and without a default."""
        names = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        differing = (content.keys() - names) | (needed - content.keys())
        if differing:
            raise ValueError(f"settings missing or unknown: {', '.join(sorted(differing))}")
        return cls(**content)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "hidden": [list(sizes) for sizes in self.hidden], "latent": list(self.latent)}

    def relevant(self) -> dict[str, Any]:
        """Return the settings that the run depends on: those of other bounds and protocols are left out."""
        asked = _Asked(self)
        BOUNDS[self.bound](cast(TrainConfig, asked))
        others = {"alpha", "order", "groups", "beta"} - asked.names
        if len(PROTOCOLS[self.protocol].factors) == 1:
            others.add("stages")
        return {name: value for name, value in self.to_json().items() if name not in others}

    def differences(self, other: TrainConfig) -> list[str]:
        """Name the settings that make this another run than ``other``.

        A file may have moved: whether it holds the same data is for their fingerprint to say.
        """
        mine, others = self.to_json(), other.to_json()
        if self.dataset.endswith(FILES) and other.dataset.endswith(FILES):
            mine["dataset"] = others["dataset"]
        return [name for name in mine if name not in CHANGEABLE and mine[name] != others[name]]


class _Asked:
    """Settings that keep the names of those that were asked for."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.names: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.names.add(name)
        return getattr(self.config, name)


def usable_device(name: str, backend: str | None) -> torch.device:
    """The device of that name; ValueError or BackendError where it, or the backend on it, cannot serve."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}: choose cpu, cuda or cuda:N")
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise ValueError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    backends.choose(backend, (torch.empty(0, device=device),))
    return device


def _known_or_file(dataset: str) -> None:
    if not dataset.endswith(FILES):
        checks.one_of("data set", dataset, DATASETS, ", or a file .npz or .npy")


def _by_stochastic_layer(hidden: Any) -> tuple[tuple[int, ...], ...]:
    sizes = tuple(hidden)
    if all(isinstance(size, int) for size in sizes):
        return (sizes,)
    return tuple(tuple(layer) for layer in sizes)
