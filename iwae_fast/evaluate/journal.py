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
from torch import Tensor

from ..files import reason, replace_file
from ..models import LatentVariableModel
from .observations import Chunk

FIELDS = ("value", "std_error", "ess", "pareto_k")
"""The results per observation of a :class:`iwae_fast.evaluate.LogLikelihood`."""

PROBED_OBSERVATIONS, PROBED_SAMPLES, PROBE_SEED = 8, 4, 20160501
"""The log-weights by which a model is known: those of its first few observations on noise that is always the same."""

PROBE_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
"""How far a probe may be off by rounding, by the dtype of the parameters, relative to its largest entry (or to 1)."""

PROBE_TOLERANCE_OF_HALF_PRECISION = 3e-2


class Journal:
    """Results of the first chunks of observations of one evaluation.

    A journal is of one model, number of samples, seed and sequence of observations. It knows the model by its
    state_dict and by its own log-weights of the first observations on fixed noise, which see what no state_dict holds:
    a likelihood's scale, a prior that is a distribution object, activations, the code of networks. It knows
    observations by a digest of each chunk, so that those of a loader need to be read only once.

    Args:
        path: an .npz, made with the first results; its folder must exist.
        model: the model, in evaluation mode.
        num_samples: k.
        observation_offset: the index of the first observation for the noise.

    Raises ValueError where the file is of another evaluation, or no journal.
    """

    def __init__(self, path: Path, model: LatentVariableModel, num_samples: int, observation_offset: int) -> None:
        self.path = path
        self.model = model
        self.subject = _digest(f"{num_samples} {observation_offset}", sorted(model.state_dict().items()))
        self.results = np.empty((len(FIELDS), 0))
        self.chunks: list[str] = []
        self.ends: list[int] = []
        self.probe: np.ndarray | None = None
        self.seed: int | None = None
        self._next = 0
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            with np.load(self.path) as file:
                if "subject" in file and "probe" not in file:
                    raise ValueError("an earlier version wrote it, which recorded too little of the model: delete it")
                subject, self.seed, self.probe = str(file["subject"]), int(file["seed"]), file["probe"]
                self.chunks, self.ends = file["chunks"].tolist(), file["ends"].tolist()
                self.results = np.stack([file[name] for name in FIELDS])
        except (ValueError, KeyError, OSError, BadZipFile, EOFError) as error:
            raise ValueError(f"{self.path} is no journal of an evaluation: {reason(error)}") from error
        if subject != self.subject:
            raise self._another("the model's parameters, the number of samples or observation_offset")

    def take(self, chunk: Chunk) -> Tensor | None:
        """Return the results of the next chunk, (4, B) in the order of ``FIELDS``, or None where it is yet to be done.

        Raises ValueError where the journal is of another model or other observations.
        """
        index, self._next = self._next, self._next + 1
        digest = _chunk_digest(chunk)
        if index < len(self.chunks) and digest != self.chunks[index]:
            raise self._another("the data")
        if index == 0:
            probe = _probe(self.model, chunk)
            if self.probe is not None and not _alike(probe, self.probe, self.model):
                raise self._another("the model's log-weights on the same noise")
            self.probe = probe if self.probe is None else self.probe
        if index == len(self.chunks):
            self.chunks.append(digest)
            return None
        first = self.ends[index - 1] if index else 0
        return torch.from_numpy(self.results[:, first : self.ends[index]]).to(chunk.x.device)

    def add(self, seed: int, results: Iterable[Tensor]) -> None:
        """Take in the results of the chunk that was asked for last, each (B,) in the order of ``FIELDS``, and write the
        file."""
        self.seed = seed
        self.results = np.concatenate([self.results, np.stack([r.cpu().numpy() for r in results])], axis=1)
        self.ends.append(self.results.shape[1])
        content = io.BytesIO()
        arrays: dict[str, Any] = {
            "subject": self.subject,
            "seed": seed,
            "probe": self.probe,
            "chunks": self.chunks,
            "ends": self.ends,
            **dict(zip(FIELDS, self.results, strict=True)),
        }
        np.savez(content, **arrays)
        replace_file(self.path, content.getvalue())

    def finish(self) -> None:
        """Raise ValueError where the journal has results of more observations than there were."""
        if self._next < len(self.chunks):
            raise self._another("the data, which have fewer observations now,")

    def _another(self, what: str) -> ValueError:
        return ValueError(f"{self.path} is of another evaluation: {what} differ; delete it, or name another file")


@torch.no_grad()
def _probe(model: LatentVariableModel, chunk: Chunk) -> np.ndarray:
    """Return the model's log-weights of the first observations on fixed noise, float64 (k, B)."""
    rows = slice(PROBED_OBSERVATIONS)
    mask = None if chunk.mask is None else chunk.mask[rows]
    context = tuple(c[rows] for c in chunk.context)
    log_weights = model.log_weights(chunk.x[rows], PROBED_SAMPLES, PROBE_SEED, context=context, mask=mask)
    return log_weights.double().cpu().numpy()


def _alike(probe: np.ndarray, other: np.ndarray, model: LatentVariableModel) -> bool:
    """Return whether two probes differ by rounding alone."""
    if probe.shape != other.shape:
        return False
    dtype = next(model.parameters(), torch.empty(0)).dtype
    largest = np.abs(other, where=np.isfinite(other), out=np.zeros_like(other)).max(initial=1.0)
    tolerance = largest * PROBE_TOLERANCE.get(dtype, PROBE_TOLERANCE_OF_HALF_PRECISION)
    return bool(np.isclose(probe, other, rtol=0.0, atol=tolerance, equal_nan=True).all())


def _chunk_digest(chunk: Chunk) -> str:
    named = [("x", chunk.x), ("mask", chunk.mask), *((f"context {i}", c) for i, c in enumerate(chunk.context))]
    return _digest("", ((name, tensor) for name, tensor in named if tensor is not None))


def _digest(text: str, tensors: Iterable[tuple[str, Any]]) -> str:
    """Return a fingerprint of named tensors, without what a state_dict holds besides tensors."""
    fingerprint = hashlib.sha256(text.encode())
    for name, tensor in tensors:
        if not isinstance(tensor, Tensor):
            continue
        fingerprint.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content: Any = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        fingerprint.update(content)
    return fingerprint.hexdigest()
