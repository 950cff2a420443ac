"""Finished results of an evaluation, saved to a file so that an interrupted evaluation can resume."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import reason, replace_file
from .observations import Chunk
from .sources import Source

FIELDS = ("value", "std_error", "ess", "pareto_k")
"""The results per observation of a :class:`iwae_fast.evaluate.LogLikelihood`."""

PROBED_OBSERVATIONS, PROBED_SAMPLES, PROBE_SEED = 8, 4, 20160501
"""The probe that identifies a model: its log-weights of the first few observations on fixed noise."""

PROBE_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
"""The rounding error allowed in a probe, per dtype of the parameters, relative to its largest entry (or to 1)."""

PROBE_TOLERANCE_OF_HALF_PRECISION = 3e-2


class Journal:
    """The finished results of one evaluation, for its first chunks of observations.

    A journal belongs to one model, number of samples, seed and sequence of observations. It identifies the model by the
    state_dict of its networks and by its log-weights of the first observations on fixed noise, which also depend on
    what a state_dict does not contain: a likelihood's scale, a prior that is a distribution object, activations, the
    code of networks. It identifies observations by a digest of each chunk, so that a loader is read only once.

    Args:
        path: an .npz file, created with the first results; its folder must exist.
        source: the model, in evaluation mode.
        num_samples: k.
        observation_offset: the index of the first observation for the noise.

    Raises:
        ValueError: the file belongs to another evaluation, or is not a journal.
    """

    def __init__(self, path: Path, source: Source, num_samples: int, observation_offset: int) -> None:
        self.path = path
        self.source: Source = source
        state = sorted(source.module.state_dict().items())
        self.subject: str = _digest(f"{num_samples} {observation_offset}", state)
        self.results: NDArray[np.float64] = np.empty((len(FIELDS), 0))
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
                    raise ValueError("it was written by an earlier version without a probe of the model: delete it")
                subject, self.seed, self.probe = str(file["subject"]), int(file["seed"]), file["probe"]
                self.chunks, self.ends = file["chunks"].tolist(), file["ends"].tolist()
                self.results = np.stack([file[name] for name in FIELDS])
        except (ValueError, KeyError, OSError, BadZipFile, EOFError) as error:
            raise ValueError(f"{self.path} is not a journal of an evaluation: {reason(error)}") from error
        if subject != self.subject:
            raise self._another("the model's parameters, the number of samples or observation_offset")

    def take(self, chunk: Chunk) -> Tensor | None:
        """Return the saved results of the next chunk, (4, B) in the order of ``FIELDS``, or None if there are none.

        Raises:
            ValueError: the journal belongs to another model or to other observations.
        """
        index, self._next = self._next, self._next + 1
        digest = _chunk_digest(chunk)
        if index < len(self.chunks) and digest != self.chunks[index]:
            raise self._another("the data")
        if index == 0:
            probe, tolerance = _probe(self.source, chunk)
            if not _alike(_probe(self.source, chunk)[0], probe, tolerance):
                raise ValueError(
                    "a journal needs log-weights that are the same for the same seed, but two calls with one seed "
                    "differ: draw by torch's generators, or by the seed that draw is given"
                )
            if self.probe is not None and not _alike(probe, self.probe, tolerance):
                raise self._another("the model's log-weights on the same noise")
            self.probe = probe if self.probe is None else self.probe
        if index == len(self.chunks):
            self.chunks.append(digest)
            return None
        first = self.ends[index - 1] if index else 0
        return torch.from_numpy(self.results[:, first : self.ends[index]]).to(chunk.x.device)

    def add(self, seed: int, results: Iterable[Tensor]) -> None:
        """Add the results of the chunk last passed to :meth:`take`, each (B,) in the order of ``FIELDS``, and write the
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
        """Raise ValueError if the journal has results of more observations than were evaluated."""
        if self._next < len(self.chunks):
            raise self._another("the data, which have fewer observations now,")

    def _another(self, what: str) -> ValueError:
        return ValueError(f"{self.path} belongs to another evaluation: {what} differ; delete it, or use another file")


@torch.no_grad()
def _probe(source: Source, chunk: Chunk) -> tuple[np.ndarray, float]:
    """Return the model's log-weights of the first observations on fixed noise, float64 (k, B), and the rounding error
    that is allowed in them."""
    rows = slice(PROBED_OBSERVATIONS)
    context = tuple(c[rows] for c in chunk.context)
    few = Chunk(0, chunk.x[rows], context, None if chunk.mask is None else chunk.mask[rows])
    log_weights = source.prepared(few, PROBE_SEED, PROBED_SAMPLES, 1)(0, PROBED_SAMPLES)
    dtype = next(source.module.parameters(), log_weights).dtype
    tolerance = PROBE_TOLERANCE.get(dtype, PROBE_TOLERANCE_OF_HALF_PRECISION)
    return log_weights.double().cpu().numpy(), tolerance


def _alike(probe: np.ndarray, other: np.ndarray, tolerance: float) -> bool:
    """Return True if two probes differ by rounding alone."""
    if probe.shape != other.shape:
        return False
    largest = np.abs(other, where=np.isfinite(other), out=np.zeros_like(other)).max(initial=1.0)
    return bool(np.isclose(probe, other, rtol=0.0, atol=largest * tolerance, equal_nan=True).all())


def _chunk_digest(chunk: Chunk) -> str:
    named = [("x", chunk.x), ("mask", chunk.mask), *((f"context {i}", c) for i, c in enumerate(chunk.context))]
    return _digest("", ((name, tensor) for name, tensor in named if tensor is not None))


def _digest(text: str, tensors: Iterable[tuple[str, Any]]) -> str:
    """Return a SHA-256 digest of a text and of named tensors; entries that are not tensors are ignored."""
    fingerprint = hashlib.sha256(text.encode())
    for name, tensor in tensors:
        if not isinstance(tensor, Tensor):
            continue
        fingerprint.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content: Any = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        fingerprint.update(content)
    return fingerprint.hexdigest()
