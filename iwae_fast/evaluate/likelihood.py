"""Streaming estimates of the marginal log-likelihood, in memory that does not grow with the number of samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import checks
from ..backends.heap import keep_large_blocks, return_free_memory
from ..models import LatentVariableModel
from ..models.encoding import observed_features
from ..modes import evaluation_mode
from ..objectives.ranks import ONE_PROCESS, MeshRanks, Ranks
from ..ops.samples import seed_number, seed_tensor
from .diagnostics import FEWEST_IN_TAIL, pareto_k_of_largest, tail_size
from .journal import FIELDS, Journal
from .observations import Chunk, chunks
from .replays import Replays
from .rows import device_rows
from .shards import in_order, own_file, own_part

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

SAMPLES_TAKEN_IN = 1024
"""The number of log-weights per observation collected before they are summed: top-k is too expensive per chunk."""

OBSERVATIONS_A_CHUNK = 256


@dataclass(frozen=True)
class LogLikelihood:
    """Importance-sampled log p(x) per observation, and its mean over observations, in nats."""

    value: Tensor
    """log (1/k) sum w_i, (B,) float64."""
    std_error: Tensor
    """The standard error of each value by the delta method, (B,) float64; NaN at k = 1 and where all weights are 0."""
    ess: Tensor
    """The effective sample size of the weights, (B,) float64."""
    pareto_k: Tensor
    """The shape of the weights' tail, (B,) float64: :func:`iwae_fast.diagnostics.pareto_k`. Above 0.7, more samples are
    needed. NaN where it is undefined, such as for k < 21; count these separately."""

    @property
    def mean(self) -> float:
        """The mean over the observations."""
        return self.value.mean().item()

    @property
    def mean_std_error(self) -> float:
        """The standard error of the mean over the observations."""
        return (self.value.std() / math.sqrt(len(self.value))).item()


class StreamingWeights:
    """Sums over a stream of log-weights, kept relative to the largest so far, and the largest log-weights themselves.

    The result is the same for any split of the stream. ``num_samples`` is the length of the whole stream, which
    determines the size of the tail.
    """

    def __init__(self, num_samples: int, observations: int, device: torch.device) -> None:
        self.count: int = 0
        self.tail: Tensor = torch.empty((0, observations), dtype=torch.float64, device=device)
        self.tail_size: int = tail_size(num_samples) + 1
        self.largest: Tensor = torch.full((observations,), -math.inf, dtype=torch.float64, device=device)
        self.total: Tensor = torch.zeros_like(self.largest)
        self.total_square: Tensor = torch.zeros_like(self.largest)

    def add(self, log_weights: Tensor) -> None:
        """Add more samples, (k, B)."""
        log_weights = log_weights.double()
        largest = torch.maximum(self.largest, log_weights.amax(0))
        # inf - inf would be NaN: as long as all weights are zero, or one is infinite, any finite shift is correct.
        shift = torch.where(largest.isinf(), 0.0, largest)
        kept = torch.exp(self.largest - shift)
        weights = torch.exp(log_weights - shift)
        self.total = self.total * kept + weights.sum(0)
        self.total_square = self.total_square * kept.square() + weights.square().sum(0)
        self.largest = largest
        self.count += len(log_weights)
        candidates = torch.cat([self.tail, log_weights])
        self.tail = candidates.topk(min(self.tail_size, len(candidates)), dim=0).values

    def merge(self, ranks: Ranks, num_samples: int) -> None:
        """Add the samples of the other ranks that divide the ``num_samples`` samples of these observations."""
        if ranks.num_sample_ranks == 1:
            return
        tail = self.tail.new_full((self.tail_size, len(self.largest)), -math.inf)
        tail[: len(self.tail)] = self.tail
        own = torch.cat([torch.stack([self.largest, self.total, self.total_square]), tail])
        largest, totals, squares, *tails = ranks.gather(own[None], ranks.num_sample_ranks).unbind(1)  # a row per rank
        self.largest = largest.amax(0)
        shift = torch.where(self.largest.isinf(), 0.0, self.largest)
        scale = torch.exp(largest - shift)
        self.total, self.total_square = (totals * scale).sum(0), (squares * scale.square()).sum(0)
        self.count = num_samples
        self.tail = torch.cat(tails).topk(min(self.tail_size, self.count), dim=0).values

    def log_likelihood(self, pareto_k: Callable[[Tensor], Tensor] = pareto_k_of_largest) -> LogLikelihood:
        """Compute the results of the samples so far; ``pareto_k`` may be a captured :func:`pareto_k_of_largest`."""
        k = self.count
        mean_square_ratio = k * self.total_square / self.total.square()
        return LogLikelihood(
            value=self.largest + torch.log(self.total) - math.log(k),
            std_error=((mean_square_ratio - 1.0).clamp(min=0.0) / (k - 1)).sqrt()
            if k > 1
            else torch.full_like(self.total, math.nan),
            ess=torch.where(self.total == 0, 0.0, self.total.square() / self.total_square),
            pareto_k=pareto_k(self.tail) if self.tail_size > FEWEST_IN_TAIL else torch.full_like(self.total, math.nan),
        )


@torch.no_grad()
def log_likelihood(
    model: LatentVariableModel,
    x: Tensor | Iterable[Any],
    num_samples: int = 5000,
    chunk_size: int | None = None,
    seed: int | Tensor | None = None,
    *,
    context: Sequence[Tensor] = (),
    mask: Tensor | None = None,
    observation_offset: int = 0,
    progress: Callable[[int], None] | None = None,
    journal: str | Path | None = None,
    mesh: DeviceMesh | None = None,
) -> LogLikelihood:
    """Estimate log p(x) by importance sampling: the IWAE bound with many samples (Burda, Grosse & Salakhutdinov 2016).

    The model runs in evaluation mode. Memory depends on ``chunk_size``, not on ``num_samples``, and noise is a
    function of (seed, sample, observation), so the chunk size changes the result by rounding only.

    Args:
        model: one of :mod:`iwae_fast.models`.
        x: observations (B, ...) on the device of the model; integers are accepted if the likelihood accepts them.
            Values outside the likelihood's support, such as pixels from 0 to 255 for "bernoulli", raise ValueError.
            Or a DataLoader or another iterable of batches, each a tensor (b, ...) or a tuple whose first element is
            such a tensor; batches are moved to the model's device, and the result equals that of all batches as one
            tensor. With a loader that shuffles, the results are in the loader's order.
        num_samples: k >= 1; the papers use 5000.
        chunk_size: samples per observation evaluated at once. If None it is chosen automatically: on the CPU to fit the
            caches, on a GPU for large matrix products within a fraction of the free memory, and reduced if the device
            runs out of memory.
        seed: an int, or an int64 scalar tensor, for reproducible noise; drawn from torch's generator if None.
        context: further inputs of encoder and decoder, (B, ...) each; the result is log p(x | context).
        mask: bool, True where x is observed, broadcasting to its shape; the result is log p(x_observed).
        observation_offset: the index of the first observation for the noise, at least 0. In a loop over batches, pass
            the number of observations before this batch: each observation then has its own noise, and the results
            equal those of all batches as one tensor with the same seed.
        progress: called with the number of (sample, observation) pairs just evaluated.
        journal: an .npz file to which finished observations are saved, 256 at a time. If it exists, an interrupted
            evaluation resumes and ends with bitwise the same results. ValueError if the file belongs to another model,
            other data, or another k, seed or offset. A loader must return the same batches again. With a mesh, each
            data rank has a file of its own: the rank is added to the name.
        mesh: a torch DeviceMesh whose dimensions are named "data" and "sample", or one of them. Every rank is called
            with all observations and evaluates its part of them, or of their samples; all ranks return all results.
            Noise does not depend on the mesh: results equal those of one process, k-hat bitwise for the same
            log-weights.

    Returns:
        A :class:`LogLikelihood`, with one entry per observation.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """
    checks.positive("num_samples", num_samples)
    if chunk_size is not None:
        checks.positive("chunk_size", chunk_size)
    checks.not_negative("observation_offset", observation_offset)
    ranks = ONE_PROCESS if mesh is None else MeshRanks(mesh)
    parts: list[Tensor] = []
    sizes: list[int] = []
    every = chunks(model, x, context, mask, OBSERVATIONS_A_CHUNK * ranks.num_data_ranks)
    if isinstance(x, Tensor):  # all at once: every check makes the host wait for the device
        model.likelihood.check_support(x, None if mask is None else observed_features(mask, x))
    keep_large_blocks()
    replays = Replays(model)
    with evaluation_mode(model):
        path = None if journal is None else own_file(Path(journal), ranks)
        kept = None if path is None else Journal(path, model, num_samples, observation_offset)
        seed = _seed(seed, None if kept is None else kept.seed, journal, ranks, _device(model))
        rows = 0
        for whole in every:
            sizes.append(len(whole.x))
            chunk = own_part(whole, ranks)
            result = _kept(kept, chunk, ranks)
            if result is None:
                if not isinstance(x, Tensor):
                    model.likelihood.check_support(chunk.x, chunk.mask)
                rows = rows or device_rows(model, chunk.x)
                chunk = chunk._replace(first=observation_offset + chunk.first)
                done, rows = _observations(model, chunk, num_samples, chunk_size, rows, seed, progress, ranks, replays)
                result = torch.stack([getattr(done, name) for name in FIELDS])
                if kept is not None:
                    kept.add(seed, result)
            elif progress is not None:
                progress(result.shape[1] * ranks.share(num_samples).size)
            parts.append(result)
        if kept is not None:
            kept.finish()
        return LogLikelihood(*in_order(parts, sizes, ranks))


def _device(model: LatentVariableModel) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _seed(
    given: int | Tensor | None, of_journal: int | None, journal: str | Path | None, ranks: Ranks, device: torch.device
) -> int:
    """Return the seed of all ranks: the given one, that of the journals, or one that is drawn."""
    known = ranks.largest(-1 if of_journal is None else of_journal, device)
    if known < 0:
        drawn = int(torch.randint(2**63 - 1, (), device="cpu"))
        return ranks.largest(drawn, device) if given is None else seed_number(given)
    asked = None if given is None else seed_number(given)
    if asked not in (None, known) or of_journal not in (None, known):
        other = of_journal if asked in (None, known) else asked
        raise ValueError(f"seed must be {known} or None to resume from {journal}, got {other}")
    return known


def _kept(journal: Journal | None, chunk: Chunk, ranks: Ranks) -> Tensor | None:
    """Return the results of a chunk that the first of the ranks that divide its samples has saved, or None."""
    result = None if journal is None else journal.take(chunk)
    if ranks.num_sample_ranks == 1:
        return result
    saved = torch.tensor(result is not None, device=chunk.x.device)
    if not ranks.from_first_sample_rank(saved):
        return None
    shape = (len(FIELDS), len(chunk.x))
    received = chunk.x.new_empty(shape, dtype=torch.float64) if result is None else result
    return ranks.from_first_sample_rank(received)


def _observations(
    model: LatentVariableModel,
    chunk: Chunk,
    num_samples: int,
    chunk_size: int | None,
    rows: int,
    seed: int,
    progress: Callable[[int], None] | None,
    ranks: Ranks,
    replays: Replays,
) -> tuple[LogLikelihood, int]:
    """Evaluate this rank's samples of a chunk of observations, ``chunk_size`` at a time, or at most ``rows`` (sample,
    observation) pairs at a time if ``chunk_size`` is None.

    Returns the results and the number of rows that fit into memory, at most ``rows``.
    """
    x, context, mask = chunk.x, chunk.context, chunk.mask
    posterior = model.encode(x, context=context, mask=mask)
    weights = StreamingWeights(num_samples, len(x), x.device)
    offset, own, is_used = ranks.share(num_samples)
    own = own if is_used else 0
    step = min(max(own, 1), chunk_size or max(1, rows // max(1, len(x))))
    taken_in = min(own, -(-SAMPLES_TAKEN_IN // step) * step)
    # One block for all chunks: separate small results that stay alive would fragment the heap.
    waiting = torch.empty((taken_in, len(x)), dtype=torch.float64, device=x.device)
    key = seed_tensor(seed, x.device)
    captured = replays.of(chunk, posterior, key, step, own // step)
    filled = start = 0
    while start < own:
        count = min(step, own - start, taken_in - filled)
        try:
            if captured is not None and captured.count == count and replays.reason is None:
                waiting[filled : filled + count] = captured(offset + start)
            else:
                waiting[filled : filled + count] = model.log_weights(
                    x,
                    count,
                    key,
                    context=context,
                    mask=mask,
                    posterior=posterior,
                    sample_offset=offset + start,
                    observation_offset=chunk.first,
                )
        except torch.OutOfMemoryError:
            if chunk_size is not None or step == 1:
                raise
            step //= 2  # `rows` was only an estimate of what fits
            rows = step * len(x)
            continue
        start, filled = start + count, filled + count
        if filled == taken_in or start == own:
            weights.add(waiting[:filled])
            filled = 0
        if progress is not None:
            progress(count * len(x))
        return_free_memory(x.device)
    weights.merge(ranks, num_samples)
    return weights.log_likelihood(replays.pareto_k), rows
