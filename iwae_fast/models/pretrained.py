"""Models in folders: ``config.json`` with a model's settings and ``model.safetensors`` with its parameters.

The names of files and arguments are those of Hugging Face's libraries. Nothing is pickled.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from .. import likelihoods
from .._version import __version__
from ..files import read_json, reason, replace_file
from ..likelihoods import Likelihood
from .dense import DenseVAE
from .priors import MixturePrior, VampPrior
from .random_weights import RandomWeightsVAE

if TYPE_CHECKING:
    from .base import LatentVariableModel

CONFIG, WEIGHTS = "config.json", "model.safetensors"

MODEL_TYPE, FORMAT = "iwae_fast", 1
"""The entries "model_type" and "iwae_fast_format" of a config."""

ANOTHER_WAY = (
    "save model.state_dict(), as by safetensors.torch.save_file, and load it into the same model, built by your own "
    "code; or derive a class that builds it from numbers and names also from huggingface_hub.PyTorchModelHubMixin"
)


class Kind(NamedTuple):
    """The description of a class in JSON."""

    settings: Callable[[Any], dict[str, Any]]
    """A function from an object to its settings."""
    build: Callable[..., Any]
    """A function that takes the settings as keyword arguments, and returns an object of them with other parameters."""


def _bounds_of(described: Any) -> dict[str, Any]:
    """Return the bounds of an object's log standard deviation as a setting, if it has any."""
    return {} if described.log_std_bounds is None else {"log_std_bounds": list(described.log_std_bounds)}


def _bounds(log_std_bounds: Any = None) -> dict[str, Any]:
    return {"log_std_bounds": None if log_std_bounds is None else tuple(log_std_bounds)}


LIKELIHOODS: dict[str, Kind] = {
    **{
        name: Kind(lambda _: {}, getattr(likelihoods, name))
        for name in ("Bernoulli", "ContinuousBernoulli", "Poisson", "ZeroInflatedPoisson")
    },
    **{
        name: Kind(lambda likelihood: {"num_features": likelihood.num_features}, getattr(likelihoods, name))
        for name in ("NegativeBinomial", "ZeroInflatedNegativeBinomial")
    },
    "Gaussian": Kind(
        lambda likelihood: {"scale": likelihood.scale, **_bounds_of(likelihood)},
        lambda scale, **bounds: likelihoods.Gaussian(scale, **_bounds(**bounds)),
    ),
    "StudentT": Kind(_bounds_of, lambda **bounds: likelihoods.StudentT(**_bounds(**bounds))),
    "Beta": Kind(lambda likelihood: {"margin": likelihood.margin}, likelihoods.Beta),
    "DiscretizedLogistic": Kind(
        lambda likelihood: {"num_levels": likelihood.num_levels, **_bounds_of(likelihood)},
        lambda num_levels, **bounds: likelihoods.DiscretizedLogistic(num_levels, **_bounds(**bounds)),
    ),
    "Mixed": Kind(
        lambda likelihood: {
            "columns": [list(column) for column in likelihood.columns],
            "real": likelihood.real,
            "count": likelihood.count,
            "log_std_bounds": likelihood.log_std_bounds,
        },
        lambda columns, real, count, log_std_bounds: likelihoods.Mixed(
            columns, real=real, count=count, **_bounds(log_std_bounds)
        ),
    ),
    "Categorical": Kind(lambda likelihood: {"num_classes": likelihood.num_classes}, likelihoods.Categorical),
}

PRIORS: dict[str, Kind] = {
    "MixturePrior": Kind(
        lambda prior: dict(zip(("num_components", "latent_dim"), prior.mean.shape, strict=True)), MixturePrior
    ),
    "VampPrior": Kind(
        lambda prior: {"shape": list(prior.pseudo_inputs.shape), "low": prior.low, "high": prior.high},
        lambda shape, low, high: VampPrior(torch.zeros(shape), low, high),
    ),
}


def _dense_settings(model: DenseVAE) -> dict[str, Any]:
    return {
        "data_dim": model.data_dim,
        "latent_dims": list(model.latent_dims),
        "hidden_dims": [list(sizes) for sizes in model.hidden_dims],
        **_bounds_of(model),
        "likelihood": _described(model.likelihood, LIKELIHOODS, "likelihood"),
        "prior": None if model.prior is None else _described(model.prior, PRIORS, "prior"),
    }


def _dense(
    likelihood: Mapping[str, Any], prior: Mapping[str, Any] | None, log_std_bounds: Any = None, **sizes: Any
) -> DenseVAE:
    made: Likelihood = _built(likelihood, LIKELIHOODS, "likelihood")
    sizes |= _bounds(log_std_bounds)
    return DenseVAE(**sizes, likelihood=made, prior=None if prior is None else _built(prior, PRIORS, "prior"))


def _random_settings(model: RandomWeightsVAE) -> dict[str, Any]:
    return {
        "data_dim": model.data_dim,
        "latent_dim": model.latent_dim,
        "hidden_dims": list(model.hidden_dims),
        "random": model.random,
        "draws": "local" if model.local else "shared",
    }


MODELS: dict[str, Kind] = {
    "DenseVAE": Kind(_dense_settings, _dense),
    "RandomWeightsVAE": Kind(_random_settings, RandomWeightsVAE),
}


def save(model: LatentVariableModel, folder: Path) -> None:
    """Write a model to a folder: see :meth:`iwae_fast.models.LatentVariableModel.save_pretrained`."""
    safetensors = _library("safetensors.torch", "save_pretrained")
    name = type(model).__name__
    settings = _settings_of(model, MODELS)
    if settings is None:
        raise TypeError(
            f"{name} cannot be saved with a config, since its networks are of your own code, which a config does not "
            f"describe: {ANOTHER_WAY}"
        )
    with torch.device("meta"):
        difference = _difference(model, MODELS[name].build(**settings))
    if difference is not None:
        raise TypeError(
            f"this {name} cannot be saved with a config, which describes networks as the class builds them: "
            f"{difference}; {ANOTHER_WAY}"
        )
    config = {
        "architectures": [name],
        "model_type": MODEL_TYPE,
        "iwae_fast_format": FORMAT,
        "iwae_fast_version": __version__,
        **settings,
    }
    text = json.dumps(config, indent=2, default=_number) + "\n"
    # Cloned, since safetensors refuses tensors that share memory.
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / WEIGHTS, safetensors.save(tensors, {"format": "pt"}))
    replace_file(folder / CONFIG, text.encode())


def load(name: str | Path, device: torch.device | str, **hub: Any) -> LatentVariableModel:
    """Return the model of a folder, or of a repository of a hub: see
    :meth:`iwae_fast.models.LatentVariableModel.from_pretrained`."""
    safetensors = _library("safetensors", "from_pretrained")
    config_file, weights_file = (_file(name, file, hub) for file in (CONFIG, WEIGHTS))
    config = read_json(config_file)
    if config.get("model_type") != MODEL_TYPE or config.get("iwae_fast_format") != FORMAT:
        raise ValueError(
            f"{config_file} must have model_type {MODEL_TYPE!r} and iwae_fast_format {FORMAT}, got "
            f"{config.get('model_type')!r} and {config.get('iwae_fast_format')!r}"
        )
    classes = config.get("architectures")
    if classes not in [[name] for name in MODELS]:
        raise ValueError(
            f"architectures in {config_file} must be one of {', '.join(MODELS)} in a list, got {classes!r}"
        )
    (kind,) = classes
    other = {"architectures", "model_type", "iwae_fast_format", "iwae_fast_version"}
    try:
        with torch.device("meta"):
            model: LatentVariableModel = MODELS[kind].build(**{k: v for k, v in config.items() if k not in other})
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{config_file} does not describe a {kind}: {error}") from error
    try:
        with safetensors.safe_open(weights_file, framework="pt") as file:
            # Cloned out of the file's memory map: the file may be replaced while the tensors are in use.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        model.load_state_dict(tensors, assign=True)
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:
        raise ValueError(f"{weights_file} does not hold the parameters of {config_file}: {reason(error)}") from error
    return model.eval().to(device)


def _number(value: Any) -> Any:
    """Return a scalar of NumPy or torch as a number of Python."""
    if getattr(value, "shape", None) != ():
        raise TypeError(f"the settings of a model must be numbers and text to be saved with a config, got {value!r}")
    return value.item()


def _file(name: str | Path, file: str, hub: dict[str, Any]) -> Path:
    """Return the path of a file of a folder, or of a repository of a hub, which is downloaded if need be."""
    if Path(name).is_dir():
        path = Path(name) / file
        if not path.is_file():
            raise FileNotFoundError(
                f"the folder {name} has no {file}: it must be one that save_pretrained() has written"
            )
        return path
    try:
        huggingface_hub = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise FileNotFoundError(
            f"{name} is not a folder; if it is the name of a repository, install huggingface_hub: pip install "
            "'iwae_fast[hub]'"
        ) from error
    return Path(huggingface_hub.hf_hub_download(str(name), file, **hub))


def _library(name: str, method: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{method} needs {error.name}, which is not installed: pip install 'iwae_fast[hub]'"
        ) from error


def _settings_of(described: nn.Module, kinds: Mapping[str, Kind]) -> dict[str, Any] | None:
    """Return the settings of an object of one of the package's classes; None for others, subclasses included."""
    kind = kinds.get(type(described).__name__)
    is_own = type(described).__module__.startswith(f"{__package__.partition('.')[0]}.")
    return None if kind is None or not is_own else kind.settings(described)


def _described(described: nn.Module, kinds: Mapping[str, Kind], what: str) -> dict[str, Any]:
    settings = _settings_of(described, kinds)
    if settings is None:
        raise TypeError(
            f"the {what} {type(described).__name__} cannot be saved with a config, which describes {', '.join(kinds)}: "
            f"{ANOTHER_WAY}"
        )
    return {"type": type(described).__name__, **settings}


def _built(description: Mapping[str, Any], kinds: Mapping[str, Kind], what: str) -> Any:
    settings = dict(description)
    kind = settings.pop("type", None)
    if kind not in list(kinds):
        raise ValueError(f"the type of {what} must be one of {', '.join(kinds)}, got {kind!r}")
    return kinds[kind].build(**settings)


def _difference(model: nn.Module, fresh: nn.Module) -> str | None:
    """Return the first difference between the modules and parameters of a model and of a fresh one, or None."""
    modules, expected = ({name: type(each) for name, each in m.named_modules()} for m in (model, fresh))
    for name in {**modules, **expected}:
        if modules.get(name) is not expected.get(name):
            found, wanted = (getattr(kind.get(name), "__name__", "nothing") for kind in (modules, expected))
            return f"{name} is {found} in place of {wanted}"
    for name, module in model.named_modules():
        if "forward" in vars(module):
            return f"{name or 'the model'} has a forward() of its own"
    shapes, wanted_shapes = ({name: t.shape for name, t in m.state_dict().items()} for m in (model, fresh))
    for name in {**shapes, **wanted_shapes}:
        if shapes.get(name) != wanted_shapes.get(name):
            return f"{name} has another shape, or is missing"
    return None
