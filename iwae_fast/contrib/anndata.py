"""Cells of an AnnData object as tensors, in batches that are made dense when they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import checks

if TYPE_CHECKING:
    from ..models import CellVAE


class Cells:
    """The counts of an ``anndata.AnnData``, or of anything with its attributes, for :class:`iwae_fast.models.CellVAE`:

        cells = Cells(adata, batch_key="donor")
        model = iw.models.CellVAE(cells.num_genes, num_batches=cells.num_batches)
        for x, batch in cells.minibatches(256, seed=epoch):
            loss = objective(model, x, context=model.context_of(x, batch))

    Sparse counts stay sparse, and counts in a backed file stay in the file: rows are read and made dense as they are
    asked for. anndata itself is not imported; the extra "anndata" installs it.

    Args:
        adata: cells by genes.
        layer: the name of the layer with the counts; ``adata.X`` if None.
        batch_key: the column of ``adata.obs`` that names each cell's batch of measurements; None if there is one batch.

    Raises:
        TypeError, ValueError: an argument, or the counts, are something else.
    """

    def __init__(self, adata: Any, *, layer: str | None = None, batch_key: str | None = None) -> None:
        for name in ("X", "layers", "obs", "var_names"):
            if not hasattr(adata, name):
                raise TypeError(f"adata must be an anndata.AnnData, got {type(adata).__name__}, which has no {name}")
        if layer is not None:
            checks.one_of("layer", layer, list(adata.layers))
        self._counts: Any = adata.X if layer is None else adata.layers[layer]
        if self._counts is None or len(self._counts.shape) != 2:
            raise ValueError(f"the counts {'in X' if layer is None else f'of layer {layer!r}'} must be (cells, genes)")
        self.genes: tuple[str, ...] = tuple(map(str, adata.var_names))
        self.batches: tuple[str, ...] = ()
        """The names of the batches, in the order of their indices; empty if there is one."""
        self._batch: Tensor | None = None
        if batch_key is not None:
            checks.one_of("batch_key", batch_key, list(adata.obs.columns))
            names, index = np.unique(np.asarray(adata.obs[batch_key]).astype(str), return_inverse=True)
            self.batches = tuple(names.tolist())
            self._batch = torch.from_numpy(index.astype(np.int64)).reshape(-1) if len(names) > 1 else None
        self._check_counts()

    def __len__(self) -> int:
        return int(self._counts.shape[0])

    @property
    def num_genes(self) -> int:
        return int(self._counts.shape[1])

    @property
    def num_batches(self) -> int:
        return max(len(self.batches), 1)

    def rows(self, index: Sequence[int] | Tensor | slice) -> tuple[Tensor, Tensor | None]:
        """Return the counts (B, G), float32, and the batches (B,), int64 or None, of these cells in this order."""
        chosen = torch.arange(len(self))[index] if isinstance(index, slice) else torch.as_tensor(index)
        if chosen.dtype == torch.bool:
            chosen = chosen.nonzero().squeeze(1)
        once, places = torch.unique(chosen.to(torch.int64), return_inverse=True)  # as files are read: in order, once
        x = torch.from_numpy(_dense(self._counts[once.numpy()]))[places]
        return x, None if self._batch is None else self._batch[chosen.to(torch.int64)]

    def minibatches(self, size: int, seed: int | None = None) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Iterate over the cells once, ``size`` at a time: in random order if a seed is given, else in theirs."""
        checks.positive("size", size)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        for index in order.split(size):
            yield self.rows(index)

    def latents(self, model: CellVAE, num_samples: int | None = None, seed: int | None = None) -> Tensor:
        """Return a latent for every cell, (N, Z), for ``adata.obsm``: E[z] under q, or a draw by importance resampling
        from ``num_samples`` samples, as :meth:`iwae_fast.models.CellVAE.encode_dataset` does."""
        batches = ((x, *model.context_of(x, batch)) for x, batch in self.minibatches(256))
        num_context = 1 + (model.num_batches > 1)
        return model.encode_dataset(batches, num_context=num_context, num_samples=num_samples, seed=seed)

    def _check_counts(self) -> None:
        """Raise ValueError unless the first cells have whole numbers of at least 0."""
        x, _ = self.rows(slice(0, 256))
        wrong = (x < 0) | (x != x.round())
        if bool(wrong.any()):
            raise ValueError(
                f"adata must have counts, whole numbers of at least 0, got {x[wrong][0].item():g}: normalized data "
                "have their counts in another layer (layer=) or in adata.raw"
            )


def _dense(rows: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return rows as a dense array of their own, from an array, a scipy matrix, or a part of a file."""
    if hasattr(rows, "toarray"):
        rows = rows.toarray()
    return np.array(rows, dtype=np.float32, ndmin=2)
