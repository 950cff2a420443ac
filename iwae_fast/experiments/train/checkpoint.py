"""Checkpoints: one safetensors file with the full state for a bit-exact continuation of a run."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from ..._version import __version__
from ...files import reason, replace_file
from ..config import TrainConfig
from .segments import Segment
from .selection import Best

FORMAT = "iwae_fast.checkpoint.1"


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or does not belong to the run; the message names the file."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a whole number of steps."""

    config: TrainConfig
    image_shape: tuple[int, ...]
    data: str
    """A fingerprint of the training observations."""
    step: int
    """Steps taken since the start of the run."""
    seconds: float
    """Training time since the start of the run."""
    epoch_started: float
    """``seconds`` at the start of the current epoch."""
    epoch_count: int
    """Number of observations in the running means of the epoch."""
    epoch_sums: Tensor
    """Sums of the running means of the epoch, float64."""
    model: dict[str, Tensor]
    """Parameters and buffers by name."""
    optimizer: dict[str, dict[str, Tensor]]
    """State tensors of the optimizer by parameter name, then by their own name."""
    how: str | None = None
    """Description of how steps were last taken; None if that was not yet decided."""
    test_data: str | None = None
    """A fingerprint of the test observations; None in checkpoints of earlier versions."""
    segments: tuple[Segment, ...] = ()
    """The objectives of the run and the steps at which they began."""
    best: Best | None = None
    """The best epoch; None if there is none yet, or if the run does not keep its checkpoint."""
    last_step: int | None = None
    """Step of the run's last checkpoint, if this one was opened as that of the best epoch; not stored."""

    @property
    def data_dim(self) -> int:
        return math.prod(self.image_shape)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file at ``path`` atomically: after a crash either the earlier or the new checkpoint is complete."""
    tensors = {f"model/{name}": tensor for name, tensor in checkpoint.model.items()}
    tensors["epoch_sums"] = checkpoint.epoch_sums
    for parameter, state in checkpoint.optimizer.items():
        tensors.update({f"optimizer/{parameter}/{name}": tensor for name, tensor in state.items()})
    metadata = {
        "format": FORMAT,
        "version": __version__,
        "config": json.dumps(checkpoint.config.to_json()),
        "image_shape": json.dumps(checkpoint.image_shape),
        "data": checkpoint.data,
        "progress": json.dumps({name: getattr(checkpoint, name) for name in PROGRESS}),
        "how": json.dumps(checkpoint.how),
        "test_data": json.dumps(checkpoint.test_data),
        "segments": json.dumps([segment.to_json() for segment in checkpoint.segments]),
        "best": json.dumps(checkpoint.best),
    }
    # Scalars are cloned: PublishedAdam shares one step count among parameters, and safetensors rejects shared memory.
    cpu = {name: (t if t.dim() else t.clone()).detach().cpu().contiguous() for name, t in tensors.items()}
    replace_file(path, safetensors.torch.save(cpu, metadata))


PROGRESS = ("step", "seconds", "epoch_started", "epoch_count")


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU; raises CheckpointError with a one-line reason if the file is not a valid one."""
    if not path.is_file():
        raise CheckpointError(f"the checkpoint {path} does not exist")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Cloned out of the file's memory map: the file may be replaced while the tensors are in use.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {reason(error)}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"the format of {path} must be {FORMAT}, got {metadata.get('format')!r}")
    try:
        return _assemble(metadata, tensors)
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not a complete checkpoint: {error}") from error


def position_of(path: Path) -> tuple[int, Best | None]:
    """Return the step of a checkpoint, and the best epoch, without reading its tensors; raises CheckpointError if it is
    not a valid one."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            return json.loads(metadata["progress"])["step"], _best(metadata)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {reason(error)}") from error


def _assemble(metadata: dict[str, str], tensors: dict[str, Tensor]) -> Checkpoint:
    model: dict[str, Tensor] = {}
    optimizer: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "model":
            model[rest] = tensor
        elif kind == "optimizer":
            parameter, _, entry = rest.rpartition("/")
            optimizer.setdefault(parameter, {})[entry] = tensor
    config = TrainConfig.from_json(json.loads(metadata["config"]))
    # Earlier versions did not store segments; the settings of the checkpoint stand for the whole run.
    segments = [Segment(**segment) for segment in json.loads(metadata.get("segments", "[]"))]
    progress: dict[str, Any] = json.loads(metadata["progress"])
    return Checkpoint(
        config=config,
        image_shape=tuple(json.loads(metadata["image_shape"])),
        data=metadata["data"],
        epoch_sums=tensors["epoch_sums"],
        model=model,
        optimizer=optimizer,
        how=json.loads(metadata.get("how", "null")),
        test_data=json.loads(metadata.get("test_data", "null")),
        segments=tuple(segments) or (Segment.begin(0, config),),
        best=_best(metadata),
        **{name: progress[name] for name in PROGRESS},
    )


def _best(metadata: dict[str, str]) -> Best | None:
    best = json.loads(metadata.get("best", "null"))
    return None if best is None else Best(*best)
