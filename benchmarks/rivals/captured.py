"""A whole training step of torch in one CUDA graph, captured by hand: zero_grad, loss, backward pass and Adam, eager or
through torch.compile.

This is how torch is fastest on small batches. ``torch.compile(mode="reduce-overhead")`` leaves the optimizer outside of
its graphs and takes five times as long (1221 us instead of 247 on an H100, k = 50, batch 20).
"""

from __future__ import annotations

import torch
from torch import Tensor

from iwae_fast.capture import CudaGraphs, Recorder

from ..networks import Setting, networks, observations, parameters, weight_matrices
from ..step import Step, adam
from .eager import iwae_loss

WARMUP = 3
"""The number of steps on a side stream before the capture: they compile kernels and allocate Adam's state."""


def step(setting: Setting, compiled: bool, recorder: Recorder | None = None) -> Step:
    """Return a step that copies the batch into the graph's memory, as for a new batch, and replays the graph.

    ``recorder`` takes the place of CUDA graphs in tests.
    """
    encoder, decoder, upper = networks(setting)
    loss = torch.compile(iwae_loss, dynamic=False) if compiled else iwae_loss
    weights = parameters(encoder, decoder, upper)
    optimizer = adam(weights, capturable=True)
    batch = observations(setting)
    x = batch.clone()

    def take() -> Tensor:
        optimizer.zero_grad()
        result = loss(encoder, decoder, x, setting.k, upper)
        result.backward()
        optimizer.step()
        return result.detach()

    graphs = recorder or CudaGraphs(x.device)
    for _ in range(WARMUP):
        graphs.rehearse(take)
    recording = graphs.record(take)

    def replay() -> Tensor:
        x.copy_(batch)
        recording.replay()
        return recording.result

    return Step(replay, weight_matrices(weights))
