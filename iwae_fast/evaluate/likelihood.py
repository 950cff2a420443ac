"""Estimates of the marginal log-likelihood of any model, in memory that does not grow with the number of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from ..ops.samples import seed_number
from .journal import FIELDS, Journal
from .observations import Chunk, chunks
from .shards import in_order, own_file, own_part
from .sources import Source, as_source
from .streaming import LogLikelihood, StreamingWeights

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

SAMPLES_TAKEN_IN = 1024
"""The number of log-weights per observation collected before they are summed: top-k is too expensive per chunk."""

OBSERVATIONS_A_CHUNK = 256


@torch.no_grad()
def log_likelihood(
    model: LatentVariableModel | Source | Callable[..., Tensor],
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

    The model runs in evaluation mode. Memory depends on ``chunk_size``, not on ``num_samples``. For a model of the
    package noise is a function of (seed, sample, observation), so the chunk size changes the result by rounding only.

    Args:
        model: one of :mod:`iwae_fast.models`; a function ``draw(x, num_samples, seed)`` that returns log-weights
            (k, B), as :class:`iwae_fast.evaluate.FromDraws` describes; or an adapter:
            :class:`iwae_fast.evaluate.FromDistributions`, ``iwae_fast.contrib.pyro.FromPyro``,
            ``iwae_fast.contrib.scvi.FromSCVI``.
        x: observations (B, ...) on the device of the model; integers are accepted if the likelihood accepts them.
            Values outside the likelihood's support, such as pixels from 0 to 255 for "bernoulli", raise ValueError.
            Or a DataLoader or another iterable of batches, each a tensor (b, ...) or a tuple whose first element is
            such a tensor; batches are moved to the model's device, and the result equals that of all batches as one
            tensor. With a loader that shuffles, the results are in the loader's order.
        num_samples: k >= 1; the papers use 5000.
        chunk_size: samples per observation evaluated at once. If None it is chosen automatically: on the CPU to fit the
            caches, on a GPU for large matrix products within a fraction of the free memory, and reduced if the device
            runs out of memory. A draw whose noise depends on the call determines its noise by it.
        seed: an int, or an int64 scalar tensor, for reproducible noise; drawn from torch's generator if None.
        context: further inputs of the model, (B, ...) each; the result is log p(x | context).
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
            log-weights. The noise of a draw that depends on the call does depend on the mesh.

    Returns:
        A :class:`LogLikelihood`, with one entry per observation.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """
    checks.positive("num_samples", num_samples)
    if chunk_size is not None:
        checks.positive("chunk_size", chunk_size)
    checks.not_negative("observation_offset", observation_offset)
    source = as_source(model)
    ranks = ONE_PROCESS if mesh is None else MeshRanks(mesh)
    parts: list[Tensor] = []
    sizes: list[int] = []
    every = chunks(source, x, context, mask, OBSERVATIONS_A_CHUNK * ranks.num_data_ranks)
    if isinstance(x, Tensor):  # all at once: every check makes the host wait for the device
        source.check_support(x, None if mask is None else observed_features(mask, x))
    keep_large_blocks()
    with evaluation_mode(source.module):
        path = None if journal is None else own_file(Path(journal), ranks)
        kept = None if path is None else Journal(path, source, num_samples, observation_offset)
        number: int | None = None
        rows = 0
        for whole in every:
            if number is None:
                number = _seed(seed, None if kept is None else kept.seed, journal, ranks, whole.x.device)
            sizes.append(len(whole.x))
            chunk = own_part(whole, ranks)
            result = _kept(kept, chunk, ranks)
            if result is None:
                if not isinstance(x, Tensor):
                    source.check_support(chunk.x, chunk.mask)
                rows = rows or source.rows(chunk.x)
                chunk = chunk._replace(first=observation_offset + chunk.first)
                done, rows = _observations(source, chunk, num_samples, chunk_size, rows, number, progress, ranks)
                result = torch.stack([getattr(done, name) for name in FIELDS])
                if kept is not None:
                    kept.add(number, result)
            elif progress is not None:
                progress(result.shape[1] * ranks.share(num_samples).size)
            parts.append(result)
        if kept is not None:
            kept.finish()
        return LogLikelihood(*in_order(parts, sizes, ranks))


def _seed(
    given: int | Tensor | None, of_journal: int | None, journal: str | Path | None, ranks: Ranks, device: torch.device
) -> int:
    """Return the seed of all ranks: the given one, that of the journals, or one that is drawn."""
    known = ranks.largest(-1 if of_journal is None else of_journal, device)
    if known < 0:
        own = seed_number(given)
        return ranks.largest(own, device) if given is None else own
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
    source: Source,
    chunk: Chunk,
    num_samples: int,
    chunk_size: int | None,
    rows: int,
    seed: int,
    progress: Callable[[int], None] | None,
    ranks: Ranks,
) -> tuple[LogLikelihood, int]:
    """Evaluate this rank's samples of a chunk of observations, ``chunk_size`` at a time, or at most ``rows`` (sample,
    observation) pairs at a time if ``chunk_size`` is None.

    Returns the results and the number of rows that fit into memory, at most ``rows``.
    """
    x = chunk.x
    weights = StreamingWeights(num_samples, len(x), x.device)
    offset, own, is_used = ranks.share(num_samples)
    own = own if is_used else 0
    step = min(max(own, 1), chunk_size or max(1, rows // max(1, len(x))))
    taken_in = min(own, -(-SAMPLES_TAKEN_IN // step) * step)
    # One block for all chunks: separate small results that stay alive would fragment the heap.
    waiting = torch.empty((taken_in, len(x)), dtype=torch.float64, device=x.device)
    log_weights = source.prepared(chunk, seed, step, own // step)
    filled = start = 0
    while start < own:
        count = min(step, own - start, taken_in - filled)
        try:
            waiting[filled : filled + count] = log_weights(offset + start, count)
        except torch.OutOfMemoryError:
            if chunk_size is not None or step == 1:
                raise
            step //= 2  # `rows` was only an estimate of what fits
            rows = step * len(x)
            continue
        start, filled = start + count, filled + count
        if filled == taken_in or start == own:
            source.check_values(waiting[:filled], offset + start - filled, chunk)
            weights.add(waiting[:filled])
            filled = 0
        if progress is not None:
            progress(count * len(x))
        return_free_memory(x.device)
    weights.merge_ranks(ranks)
    return weights.log_likelihood(source.pareto_k), rows
