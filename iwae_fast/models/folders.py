"""The methods of models that write them to folders and read them again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import torch

if TYPE_CHECKING:
    from .base import LatentVariableModel

Model = TypeVar("Model", bound="InFolders")


class InFolders:
    """The base class of models that are stored in folders, in the format of :mod:`iwae_fast.models.pretrained`."""

    backend: str | None

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the model to a folder, for :meth:`from_pretrained`: its settings as ``config.json``, and its parameters
        as ``model.safetensors``. Needs safetensors.

        A config describes a :class:`DenseVAE` or :class:`RandomWeightsVAE` with any likelihood of the package but
        :class:`iwae_fast.likelihoods.FromDistribution`, and with N(0, I), a :class:`MixturePrior` or a
        :class:`VampPrior` as its prior. Dtypes are kept; ``backend`` is not part of the config.

        Args:
            save_directory: the folder, which is created if it does not exist. Its two files are replaced.

        Raises:
            TypeError: the model has networks, a prior or a likelihood of your own code.
            ImportError: safetensors is not installed.
            OSError: a file cannot be written.
        """
        from .pretrained import save

        save(cast("LatentVariableModel", self), Path(save_directory))

    @classmethod
    def from_pretrained(
        cls: type[Model],
        pretrained_model_name_or_path: str | Path,
        *,
        device: torch.device | str = "cpu",
        backend: str | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> Model:
        """Return the model that :meth:`save_pretrained` has written, in evaluation mode. Needs safetensors.

        No code of the folder is run, and nothing is unpickled. ``iw.models.LatentVariableModel.from_pretrained`` takes
        a model of any class.

        Args:
            pretrained_model_name_or_path: the folder; or if there is no such folder, the name of a repository, "owner/
                name", whose two files huggingface_hub downloads or has in its cache.
            device: the device of the parameters.
            backend: force a backend of the package by name.
            revision, cache_dir, token, force_download, local_files_only: as in ``huggingface_hub.hf_hub_download``, for
                a repository.

        Raises:
            FileNotFoundError: there is no such folder or file, and huggingface_hub is not installed.
            ValueError: a file is not one of a model, or they do not belong together.
            TypeError: the model is of another class.
            ImportError: safetensors is not installed.
        """
        from .pretrained import load

        hub = {"revision": revision, "cache_dir": cache_dir, "token": token}
        model = load(
            pretrained_model_name_or_path,
            device,
            **hub,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        if not isinstance(model, cls):
            raise TypeError(
                f"{pretrained_model_name_or_path} must hold a {cls.__name__}, got a {type(model).__name__}: call "
                f"{type(model).__name__}.from_pretrained"
            )
        model.backend = backend
        return model
