"""Chunks of samples, and the fit of their weights' tails, as replays of a CUDA graph, where launching kernels takes
longer than running them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..capture import CudaGraphs, Program, Recorder, unavailable
from ..capture.obstacles import of_model
from ..models import LatentVariableModel
from ..models.draw import Draw
from ..models.posteriors import AnyPosterior, DiagonalGaussian
from .diagnostics import pareto_k_of_largest
from .observations import Chunk

MOST_ROWS = 2**17
"""The most rows (samples times observations) of a chunk that is captured. On an H100 a chunk took 2.1 ms whether it had
4096 or 102,400 rows, so Python; with 256,000 rows it took 3.9 ms, so the device."""

FEWEST_CHUNKS = 8
"""The fewest chunks of the same observations for which a graph is captured: two run before it, and a capture takes
about as long as two more."""

LogWeights = Callable[[int], Tensor]


class Replays:
    """Graphs of the chunks of one evaluation of a model: one per chunk of observations, replayed for all its samples.

    Where a chunk cannot be captured, ``reason`` says why, and chunks are evaluated without a graph from then on.
    """

    def __init__(self, model: LatentVariableModel) -> None:
        self.model = model
        self.reason: str | None = None
        self._recorder: Recorder | None = None
        self._tail: Tensor | None = None
        self._pareto_k: Program | None = None

    def pareto_k(self, tail: Tensor) -> Tensor:
        """Return :func:`pareto_k_of_largest`, replayed for all chunks of as many observations: it is some 1500 launches
        of small kernels, more than all others of a chunk of observations."""
        if unavailable(tail.device) is not None:
            return pareto_k_of_largest(tail)
        if self._pareto_k is None or self._tail is None or self._tail.shape != tail.shape:
            self._tail = own = torch.empty_like(tail)
            self._pareto_k = Program(lambda: pareto_k_of_largest(own), self._recorder_of(tail.device))
        self._tail.copy_(tail)
        return self._pareto_k().clone()  # the next call overwrites it

    def _recorder_of(self, device: torch.device) -> Recorder:
        if self._recorder is None:
            self._recorder = CudaGraphs(device)
        return self._recorder

    def of(
        self, chunk: Chunk, posterior: AnyPosterior, seed: Tensor, count: int, num_chunks: int
    ) -> CapturedChunk | None:
        """Return a function of the first sample's index that computes the log-weights of ``count`` samples, or None if
        a graph would not be faster or is not possible."""
        if count * len(chunk.x) > MOST_ROWS or num_chunks < FEWEST_CHUNKS:
            return None
        self.reason = self.reason or self._obstacle(chunk.x.device, posterior)
        if self.reason is not None:
            return None
        recorder = self._recorder_of(chunk.x.device)
        recorder.forget()  # the graph of earlier observations is not replayed again
        return CapturedChunk(self, recorder, chunk, posterior, seed, count)

    def _obstacle(self, device: torch.device, posterior: AnyPosterior) -> str | None:
        if not isinstance(posterior, DiagonalGaussian):
            return "the posterior's noise is drawn by the host"
        if not self.model.takes_sample_indices:
            return "draws of the weights are shared by observations, and cannot be selected by an index in memory"
        return unavailable(device) or of_model(self.model)


class CapturedChunk:
    """The log-weights of ``count`` consecutive samples, (count, B), as a function of the index of the first one."""

    def __init__(
        self, owner: Replays, recorder: Recorder, chunk: Chunk, posterior: AnyPosterior, seed: Tensor, count: int
    ) -> None:
        self.owner = owner
        self.count = count
        # A graph repeats the same kernels with the same arguments, so the samples' indices are read from memory.
        self._relative = torch.arange(count, device=chunk.x.device)[:, None]
        self._indices = torch.empty_like(self._relative)
        draw = Draw(seed, count, 0, chunk.first, self._indices.expand(count, len(chunk.x)))

        def log_weights() -> Tensor:
            _, terms = owner.model.terms(chunk.x, posterior, draw, context=chunk.context, mask=chunk.mask)
            return terms.log_weights()

        self._program = Program(log_weights, recorder)

    def __call__(self, first: int) -> Tensor:
        """Return the log-weights; the next call overwrites them."""
        torch.add(self._relative, first, out=self._indices)
        result = self._program()
        self.owner.reason = self._program.reason
        return result
