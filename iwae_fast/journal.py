"""What an evaluation has finished, kept in a file, so that one that was interrupted goes on where it stopped."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from .files import reason, replace_file

FIELDS = ("value", "std_error", "ess", "pareto_k")
"""Of a :class:`iwae_fast.evaluate.LogLikelihood`, per observation."""


class Journal:
    """Results of the first so many observations of one evaluation.

    Args:
        path: an .npz, made with the first results; its folder must exist.
        subject: what is evaluated, as :func:`digest` gives it. ValueError where the file is of another, or no journal.
    """

    def __init__(self, path: Path, subject: str) -> None:
        self.path = path
        self.subject = subject
        self.results = np.empty((len(FIELDS), 0))
        self.seed: int | None = None
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            with np.load(self.path) as file:
                subject, seed = str(file["subject"]), int(file["seed"])
                results = np.stack([file[name] for name in FIELDS])
        except (ValueError, KeyError, OSError, BadZipFile, EOFError) as error:
            raise ValueError(f"{self.path} is no journal of an evaluation: {reason(error)}") from error
        if subject != self.subject:
            raise ValueError(
                f"{self.path} is of another evaluation (model, data or number of samples differ): delete it, or name "
                "another file"
            )
        self.results, self.seed = results, seed

    def __len__(self) -> int:
        return self.results.shape[1]

    def add(self, seed: int, results: Iterable[Tensor]) -> None:
        """Take in further observations, each result (B,) in the order of ``FIELDS``, and write the file."""
        self.seed = seed
        self.results = np.concatenate([self.results, np.stack([r.cpu().numpy() for r in results])], axis=1)
        content = io.BytesIO()
        arrays: dict[str, Any] = {"subject": self.subject, "seed": seed, **dict(zip(FIELDS, self.results, strict=True))}
        np.savez(content, **arrays)
        replace_file(self.path, content.getvalue())


def digest(model: nn.Module, num_samples: int, data: Iterable[Tensor | None]) -> str:
    """A fingerprint of what is evaluated."""
    fingerprint = hashlib.sha256(f"{num_samples}".encode())
    state = sorted(model.state_dict().items())
    for name, tensor in [*state, *((f"data {index}", tensor) for index, tensor in enumerate(data))]:
        if tensor is None:
            continue
        fingerprint.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        fingerprint.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return fingerprint.hexdigest()
