"""What turns a function into something that can be replayed: CUDA graphs, behind a seam that tests fill otherwise."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol

import torch

Function = Callable[[], Any]

FAILED: list[Any] = []
"""Captures that failed. They are kept, since torch's allocator may go on asking them which streams are theirs."""


class Recording(NamedTuple):
    """A function that was recorded."""

    replay: Callable[[], Any]
    """Does on the device what the function did, with what its tensors hold now."""
    result: Any
    """What the function returned; each replay writes into its tensors."""


class Recorder(Protocol):
    """Records functions whose numbers all come from tensors on one device."""

    def rehearse(self, function: Function) -> tuple[Any, str | None]:
        """Run the function, for real, under the conditions of a recording.

        Returns what it returned, and why it could not be recorded, where that shows.
        """

    def record(self, function: Function) -> Recording:
        """Record the function; nothing happens on the device before the first replay. Raises where it cannot be."""

    def forget(self) -> None:
        """Recordings made so far are given up; what they returned may still be held."""


def unavailable(device: torch.device) -> str | None:
    """Why there are no graphs for a device; None where there are."""
    return None if device.type == "cuda" else f"the model is on {device}: CUDA graphs are for CUDA devices"


class CudaGraphs:
    """Graphs of one device, in memory that they share: they never run at the same time.

    Args:
        device: whose work is captured.
        stream: where rehearsals run and captures are made; one of their own if None.
    """

    def __init__(self, device: torch.device, stream: torch.cuda.Stream | None = None) -> None:
        self.stream = torch.cuda.Stream(device) if stream is None else stream
        self.pool = torch.cuda.graph_pool_handle()

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
                # Other threads, such as one that pins memory for a data loader, may do what they like meanwhile.
                with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                    result = function()
            except BaseException:
                self._clean_up(graph, here)
                raise
        return Recording(graph.replay, result)

    def forget(self) -> None:
        # Torch does not let a pool be used again whose graphs are all gone while tensors in it are not.
        self.pool = torch.cuda.graph_pool_handle()

    def _clean_up(self, graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> None:
        """End what a failed capture leaves under way: its stream, the allocator's part, the generator's part."""
        FAILED.append(graph)
        torch.cuda.set_stream(stream)
        # Of no use where the capture ended by itself and an exception was all that failed; not in every torch.
        with suppress(RuntimeError, AttributeError):
            torch._C._cuda_endAllocateToPool(self.stream.device.index, self.pool)
        graph.reset()
        self.forget()
        generator = torch.cuda.default_generators[self.stream.device.index]
        try:
            torch.empty(1, device=self.stream.device).uniform_()
        except RuntimeError:  # the generator waits for the end of the capture: another one with its numbers takes over
            other = torch.Generator(self.stream.device)
            other.set_state(generator.get_state())
            generator.graphsafe_set_state(other.graphsafe_get_state())


@contextmanager
def _waits_seen() -> Iterator[list[str]]:
    """Inside, where the host waits for the device is noted, by file and line; other warnings pass."""
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
            seen.append(f"it waits for the device, at {each.filename}:{each.lineno}")
        elif "Synchronization debug mode" not in str(each.message):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
