"""The values of options, for help and completion.

Names that are defined in modules importing torch, which takes seconds, are copied here; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable

from .. import bound_settings

FILES = (".npz", ".npy", ".csv", ".tsv", ".parquet", ".mat", ".h5", ".hdf5", ".h5ad")
DATASETS = ("digits", "mnist", "binarized-mnist", "omniglot", "fashion-mnist")
PROTOCOLS = ("constant", "paper", "code", "dd2434", "iwaer")
SCHEDULES = ("constant", "linear", "cosine", "exponential")
NETWORKS = ("dense", "iwaer", "iwaer-rec")
LIKELIHOODS = (
    "bernoulli",
    "continuous-bernoulli",
    "gaussian",
    "gaussian-fixed",
    "gaussian-learned",
    "negative-binomial",
    "zero-inflated-negative-binomial",
    "categorical",
)
PRIORS = ("standard", "mixture", "vamp")
BOUNDS = tuple(bound_settings.BOUNDS)
ESTIMATORS = ("reparameterized", "stl", "dreg", "gdreg", "aisle-kl", "aisle-chi2", "rws", "rws-dreg", "vimco")
BACKENDS = ("cpu", "cuda", "triton", "reference")
TABLES = ("burda-table-1", "burda-table-2", "burda-table-3", "dd2434-table-1", "iwaer-table-1", "digits")
TRACKERS = ("tensorboard", "wandb", "mlflow")
SAMPLERS = ("tpe", "random")
SCALES = ("smoke", "small", "medium", "full")


def completing(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Return a function that completes the beginning of one of the names on the command line."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]
