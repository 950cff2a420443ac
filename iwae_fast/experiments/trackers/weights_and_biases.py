"""The adapter of Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import PROJECT, Settings, Tracker


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases, set up by its own environment variables, such as WANDB_MODE=offline."""

    name, library = "wandb", "wandb"

    def begin(self, folder: Path, settings: Settings, identity: str | None, step: int) -> str:  # noqa: ARG002
        import wandb

        self.run: Any = wandb.init(
            dir=str(folder),
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            id=identity,
            resume=None if identity is None else "allow",
            # The library must not take the output of a process whose progress bars are being drawn.
            settings=wandb.Settings(console="off", silent=True),
        )
        self.run.config.update(dict(settings), allow_val_change=True)
        # Its own count of calls cannot go back to the checkpoint from which a run resumes.
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")
        return self.run.id

    def where(self) -> str:
        return str(Path(self.run.dir).parent) if self.run.offline else self.run.url

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({**values, "step": step})

    def picture(self, step: int, path: Path) -> None:
        import wandb

        self.run.log({path.stem: wandb.Image(str(path)), "step": step})

    def end(self, outcome: str) -> None:
        self.run.finish(exit_code=int(outcome != "finished"))
