"""Recorders, which capture a function for replay: CUDA graphs, behind an interface that tests replace."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol

import torch

from ..objectives.ranks import ONE_PROCESS, Ranks

Function = Callable[[], Any]

FAILED: list[Any] = []
"""Failed captures, which must stay alive: torch's allocator may still query which streams they own."""


class Recording(NamedTuple):
    """A recorded function."""

    replay: Callable[[], Any]
    """A function that repeats the recorded device work on the current content of the tensors."""
    result: Any
    """The function's result; each replay overwrites its tensors."""


class Recorder(Protocol):
    """An interface for recording functions that read all varying values from tensors on one device."""

    def rehearse(self, function: Function) -> tuple[Any, str | None]:
        """Run the function, with all its effects, under the conditions of a recording.

        Returns its result and the reason why it cannot be recorded, or None if no reason was found.
        """

    def record(self, function: Function) -> Recording:
        """Record the function without running its device work; raise an exception if it cannot be recorded."""

    def forget(self) -> None:
        """Discard the recordings made so far; their results may still be referenced."""


def unavailable(device: torch.device, ranks: Ranks = ONE_PROCESS) -> str | None:
    """Return the reason why a device, or the exchange between ranks, does not support graphs, or None if both do."""
    if device.type != "cuda":
        return f"the model is on {device}, but CUDA graphs require a CUDA device"
    if others := sorted(ranks.backends(device) - {"nccl"}):
        return f"the ranks of the mesh communicate by {', '.join(others)}, but CUDA graphs require nccl"
    return None


class CudaGraphs:
    """CUDA graphs of one device in a shared memory pool, since they never run at the same time.

    Args:
        device: the device whose work is captured.
        stream: the stream of rehearsals and captures. If None, the current stream, or a new one if that is the default
            stream, on which nothing can be captured. Graphs of different streams may run at the same time: each stream
            has its own workspaces of matrix products, so a graph must not be replayed beside others of its stream.
    """

    def __init__(self, device: torch.device, stream: torch.cuda.Stream | None = None) -> None:
        if stream is None:
            current = torch.cuda.current_stream(device)
            stream = torch.cuda.Stream(device) if current == torch.cuda.default_stream(device) else current
        self.stream: torch.cuda.Stream = stream
        self.pool: Any = torch.cuda.graph_pool_handle()

    def rehearse(self, function: Function) -> tuple[Any, str | None]:
        here = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream), _waits_seen() as seen:
            result = function()
        here.wait_stream(self.stream)
        return result, seen[0] if seen else None

    def record(self, function: Function) -> Recording:
        graph = torch.cuda.CUDAGraph()
        here = torch.cuda.current_stream(self.stream.device)
        with torch.cuda.device(self.stream.device):
            try:
                # thread_local: calls of other threads, such as a data loader's that pins memory, must not break it.
                with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                    result = function()
            except BaseException:
                self._clean_up(graph, here)
                raise
        return Recording(graph.replay, result)

    def forget(self) -> None:
        # Torch refuses to reuse a pool whose graphs are all gone while tensors in it are still alive.
        self.pool = torch.cuda.graph_pool_handle()

    def _clean_up(self, graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> None:
        """Reset the stream, allocator and generator state that a failed capture leaves behind."""
        FAILED.append(graph)
        torch.cuda.set_stream(stream)
        # Raises if the capture had already ended normally; the function does not exist in every torch version.
        with suppress(RuntimeError, AttributeError):
            torch._C._cuda_endAllocateToPool(self.stream.device.index, self.pool)
        graph.reset()
        self.forget()
        generator = torch.cuda.default_generators[self.stream.device.index]
        try:
            torch.empty(1, device=self.stream.device).uniform_()
        except RuntimeError:  # the generator is still in capture mode: replace its state by that of a fresh generator
            other = torch.Generator(self.stream.device)
            other.set_state(generator.get_state())
            generator.graphsafe_set_state(other.graphsafe_get_state())


@contextmanager
def _waits_seen() -> Iterator[list[str]]:
    """Collect the host-device synchronizations of the block, with file and line; re-issue all other warnings."""
    seen: list[str] = []
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield seen
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for each in caught:
        if "called a synchronizing CUDA operation" in str(each.message):
            seen.append(f"it forces a device synchronization at {each.filename}:{each.lineno}")
        elif "Synchronization debug mode" not in str(each.message):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
