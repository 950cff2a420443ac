"""A run of the command line, back in Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..data import ImageData
from ..models import LatentVariableModel

if TYPE_CHECKING:
    from .config import TrainConfig
    from .train.checkpoint import Checkpoint

OF_EXTRA = ("filelock", "matplotlib", "safetensors", "sklearn")
"""Top-level modules of the optional dependencies ``cli`` that a run may need."""


@dataclass(frozen=True)
class LoadedRun:
    """A trained model and what it was trained by, from :func:`load_run`."""

    folder: Path
    model: LatentVariableModel
    """The model with its trained parameters, in evaluation mode."""
    config: TrainConfig
    """The run's settings: ``config.k``, ``config.bound``, ``config.dataset`` and so on."""
    step: int
    """Training steps that its checkpoint has behind it."""
    image_shape: tuple[int, int]
    """Height and width of an observation in pixels; (1, D) for features that are not an image."""
    checkpoint: Checkpoint
    """All that the run would go on from."""

    def load_data(self, path: str | Path | None = None) -> ImageData:
        """Load the run's data set, from ``path`` if its file has moved there.

        Parts of a file of your own are :class:`iwae_fast.data.Rows`, which give float32 tensors when they are indexed;
        those of other data sets are float32 tensors.

        Raises CheckpointError where the data are not those that the run was trained with.
        """
        from .train.run_data import load_own_data
        from .train.runs import Run

        return load_own_data(self.checkpoint, Run(self.folder).checkpoint, None if path is None else str(path))


def load_run(folder: str | Path, device: str | None = None, backend: str | None = None) -> LoadedRun:
    """Load the trained model of a run that ``iwae-fast train`` made, with its settings.

    Args:
        folder: the run's.
        device: "cpu", "cuda" or "cuda:N"; where the run was trained if None.
        backend: the backend that the model is forced to use; the run's if None.

    Raises FileNotFoundError where the folder holds no run, CheckpointError (a RuntimeError) where its checkpoint is
    missing or damaged, ValueError where the device is not there, and ImportError where the optional dependencies of the
    command line are not installed.
    """
    try:
        from .train.runs import open_run, trained_model
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in OF_EXTRA:
            raise
        raise ImportError(
            f"load_run reads what the command line wrote, and {error.name} is not installed: "
            "pip install 'iwae_fast[cli]'"
        ) from error
    run, checkpoint = open_run(Path(folder))
    model = trained_model(checkpoint, device, backend).eval()
    return LoadedRun(run.folder, model, checkpoint.config, checkpoint.step, checkpoint.image_shape, checkpoint)
