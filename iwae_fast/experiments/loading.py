"""Loading a run of the command line in Python."""

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
"""Top-level modules of the optional dependencies ``cli`` that loading a run may import."""


@dataclass(frozen=True)
class LoadedRun:
    """A trained model with its settings and checkpoint, from :func:`load_run`."""

    folder: Path
    model: LatentVariableModel
    """The model with its trained parameters, in evaluation mode."""
    config: TrainConfig
    """The run's settings: ``config.k``, ``config.bound``, ``config.dataset`` and so on."""
    step: int
    """Training steps before the checkpoint."""
    which: str
    """The checkpoint that was loaded: "best" for the epoch with the highest validation bound, else "last"."""
    image_shape: tuple[int, ...]
    """Height and width of an observation in pixels, and 3 for the channels of a color image; (1, D) for features that
    are not an image."""
    checkpoint: Checkpoint
    """The full state from which training would resume."""

    def load_data(self, path: str | Path | None = None) -> ImageData:
        """Load the run's data set, from ``path`` if its file has moved there.

        The parts of a file are :class:`iwae_fast.data.Rows`, which return float32 tensors when they are indexed; those
        of the known data sets are float32 tensors.

        Raises CheckpointError if the data are not those with which the run was trained.
        """
        from .train.run_data import load_own_data
        from .train.runs import Run

        return load_own_data(self.checkpoint, Run(self.folder).checkpoint, None if path is None else str(path))


def load_run(
    folder: str | Path, device: str | None = None, backend: str | None = None, checkpoint: str | None = None
) -> LoadedRun:
    """Load the trained model of a run of ``iwae-fast train``, with its settings.

    Args:
        folder: folder of the run.
        device: "cpu", "cuda" or "cuda:N"; the run's device if None.
        backend: the backend to force; the run's if None.
        checkpoint: "best" for the epoch with the highest validation bound, or "last"; if None, the best in runs that
            keep it (``--keep-best`` and ``--patience``), else the last. ``.which`` of the result says which it is.

    Raises FileNotFoundError if the folder does not hold a run, CheckpointError (a RuntimeError) if its checkpoint is
    missing or damaged, ValueError if the device is not available or the run does not have a best checkpoint, and
    ImportError if the optional dependencies of the command line are not installed.
    """
    try:
        from .train.runs import open_trained, trained_model
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in OF_EXTRA:
            raise
        raise ImportError(
            f"load_run needs {error.name}, which is not installed: pip install 'iwae_fast[cli]'"
        ) from error
    run, opened = open_trained(Path(folder), checkpoint)
    model = trained_model(opened, device, backend).eval()
    which = "last" if opened.last_step is None else "best"
    return LoadedRun(run.folder, model, opened.config, opened.step, which, opened.image_shape, opened)
