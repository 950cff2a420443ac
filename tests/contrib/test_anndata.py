"""Tests of cells from AnnData objects, with the object itself where it is installed, and with its attributes."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import iwae_fast as iw
from iwae_fast.contrib.anndata import Cells

COUNTS = np.random.default_rng(0).poisson(2.0, (11, 5)).astype("float32")
DONORS = np.array(["b", "a", "b", "c", "a", "a", "b", "c", "c", "a", "b"])


class Table(dict[str, Any]):
    """A table of columns, as ``adata.obs`` is."""

    @property
    def columns(self) -> list[str]:
        return list(self)


def stand_in(x: Any = COUNTS, **layers: Any) -> SimpleNamespace:
    genes = [f"gene{i}" for i in range(5)]
    return SimpleNamespace(X=x, layers=layers, obs=Table(donor=DONORS, site=["one"] * 11), var_names=genes)


def test_rows_in_any_order() -> None:
    cells = Cells(stand_in(), batch_key="donor")
    assert (len(cells), cells.num_genes, cells.num_batches) == (11, 5, 3)
    assert cells.genes[:2] == ("gene0", "gene1")
    assert cells.batches == ("a", "b", "c")
    x, batch = cells.rows([7, 0, 7, 3])
    assert torch.equal(x, torch.from_numpy(COUNTS[[7, 0, 7, 3]]))
    assert batch is not None
    assert batch.tolist() == [2, 1, 2, 2]
    assert torch.equal(cells.rows(torch.arange(11) > 8)[0], torch.from_numpy(COUNTS[9:]))


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix", "csr_array"])
def test_sparse_counts(kind: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    cells = Cells(stand_in(np.zeros((11, 5)), counts=getattr(sparse, kind)(COUNTS.astype("int64"))), layer="counts")
    x, batch = cells.rows(slice(2, 9))
    assert batch is None
    assert x.dtype == torch.float32
    assert torch.equal(x, torch.from_numpy(COUNTS[2:9]))


def test_minibatches_have_every_cell_once() -> None:
    cells = Cells(stand_in(), batch_key="donor")
    in_order = torch.cat([x for x, _ in cells.minibatches(4)])
    assert torch.equal(in_order, torch.from_numpy(COUNTS))
    parts = [list(cells.minibatches(4, seed=seed)) for seed in (0, 0, 1)]
    first, again, other = (torch.cat([x for x, _ in part]) for part in parts)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.sum() == in_order.sum()
    assert [len(x) for x, _ in parts[0]] == [4, 4, 3]


def test_training_and_latents() -> None:
    cells = Cells(stand_in(), batch_key="donor")
    torch.manual_seed(0)
    model = iw.models.CellVAE(cells.num_genes, 2, (6,), num_batches=cells.num_batches)
    objective = iw.Objective(iw.bounds.IWAE(), num_samples=3)
    for x, batch in cells.minibatches(4, seed=0):
        objective(model, x, context=model.context_of(x, batch)).backward()
    x, batch = cells.rows(slice(None))
    expected = model.mean_of(model.encode(x, context=model.context_of(x, batch)))
    torch.testing.assert_close(cells.latents(model), expected.detach())
    assert torch.equal(cells.latents(model, 5, seed=1), cells.latents(model, 5, seed=1))


def test_one_batch_is_none() -> None:
    cells = Cells(stand_in(), batch_key="site")
    assert cells.num_batches == 1
    assert cells.rows([0])[1] is None


@pytest.mark.parametrize(
    ("adata", "options", "error", "message"),
    [
        (COUNTS, {}, TypeError, "adata must be an anndata.AnnData, got ndarray, which has no X"),
        (stand_in(), {"layer": "count"}, ValueError, "unknown layer 'count'"),
        (stand_in(), {"batch_key": "donors"}, ValueError, "unknown batch_key 'donors': did you mean 'donor'"),
        (stand_in(None), {}, ValueError, r"the counts in X must be \(cells, genes\)"),
        (stand_in(np.log1p(COUNTS)), {}, ValueError, "adata must have counts, whole numbers of at least 0, got"),
        (stand_in(-COUNTS), {}, ValueError, "adata must have counts"),
    ],
)
def test_what_does_not_fit(adata: Any, options: dict[str, str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Cells(adata, **options)


@pytest.mark.skipif(importlib.util.find_spec("anndata") is None, reason="anndata is not installed")
@pytest.mark.filterwarnings("ignore")
def test_an_anndata_object_and_its_file(tmp_path: Any) -> None:
    import anndata
    import pandas
    import scipy.sparse

    obs = pandas.DataFrame({"donor": pandas.Categorical(DONORS)}, index=[f"cell{i}" for i in range(11)])
    adata = anndata.AnnData(scipy.sparse.csr_matrix(COUNTS), obs=obs)
    whole, batch = Cells(adata, batch_key="donor").rows(slice(None))
    assert torch.equal(whole, torch.from_numpy(COUNTS))
    assert batch is not None
    assert batch.tolist() == np.unique(DONORS, return_inverse=True)[1].tolist()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    assert torch.equal(Cells(backed).rows([9, 2, 2, 5])[0], torch.from_numpy(COUNTS[[9, 2, 2, 5]]))
