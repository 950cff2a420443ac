"""An evaluation divided over ranks: which observations a rank takes, and how results come together.

Every rank is given all observations. Each takes its part of every chunk, so that none is evaluated twice or dropped,
and all ranks return all results.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..objectives.ranks import Ranks, part
from .observations import Chunk


def own_part(chunk: Chunk, ranks: Ranks) -> Chunk:
    """Return the observations of a chunk that this rank evaluates."""
    first, end = part(len(chunk.x), ranks.data_rank, ranks.num_data_ranks)
    mask = None if chunk.mask is None else chunk.mask[first:end]
    return Chunk(chunk.first + first, chunk.x[first:end], tuple(c[first:end] for c in chunk.context), mask)


def own_file(path: Path, ranks: Ranks) -> Path | None:
    """Return the file for the results of this rank's observations; None if another rank writes it."""
    if ranks.sample_rank:
        return None
    if ranks.num_data_ranks == 1:
        return path
    return path.with_stem(f"{path.stem}-{ranks.data_rank}-of-{ranks.num_data_ranks}")


def in_order(own: Sequence[Tensor], chunk_sizes: Sequence[int], ranks: Ranks) -> Tensor:
    """Return the results of all observations, (n, B), in order, from this rank's part of each chunk, (n, b)."""
    every = range(ranks.num_data_ranks)
    sizes = [[end - first for first, end in (part(size, rank, len(every)) for size in chunk_sizes)] for rank in every]
    gathered = ranks.gather_observations(torch.cat(list(own), dim=1), [sum(of_rank) for of_rank in sizes])
    by_chunk = [columns.split(of_rank, dim=1) for columns, of_rank in zip(gathered, sizes, strict=True)]
    return torch.cat([parts[chunk] for chunk in range(len(chunk_sizes)) for parts in by_chunk], dim=1)
