"""The adapter of TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import Settings, Tracker, text

FOLDER = "tensorboard"
COMPARED = ("test/nll", "validation/bound", "train/bound")
"""Numbers beside the settings in TensorBoard's table of runs."""


class TensorBoard(Tracker):
    """Event files in the folder ``tensorboard`` of the run: ``tensorboard --logdir runs`` shows all runs."""

    name, library = "tensorboard", "tensorboard"

    def begin(self, folder: Path, settings: Settings, identity: str | None, step: int) -> str:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.folder = folder / FOLDER
        # What was logged after the checkpoint is logged again, and hidden until then.
        self.writer: Any = SummaryWriter(str(self.folder), purge_step=None if identity is None else step + 1)
        files: Any = self.writer.file_writer
        shown = {name: text(value) for name, value in settings.items()}
        for summary in hparams(shown, dict.fromkeys(COMPARED, 0.0))[:2]:
            files.add_summary(summary)
        return FOLDER

    def where(self) -> str:
        return str(self.folder)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, step: int, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self.writer.add_image(path.stem, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def end(self, outcome: str) -> None:  # noqa: ARG002 (event files do not have one)
        self.writer.close()
