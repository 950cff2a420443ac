"""Imputation of the missing values of a file by a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data import DataError
from ..data.arrays import read_arrays
from ..data.own import PARTS, SINGLE
from ..files import replace_file
from ..imputation import Imputation

SUFFIXES = (".npy", ".npz", ".csv")
"""Suffixes of the files that are written."""


def read_table(path: Path) -> NDArray[Any]:
    """Return the observations of a file, (N, ...), in which NaN is a missing value.

    A file with several parts gives its test part.

    Raises DataError if the file is missing or damaged, has no such array, or one that holds anything but numbers.
    """
    arrays = read_arrays(path, PARTS + SINGLE)
    name = next((name for name in ("test", *SINGLE) if name in arrays), None)
    if name is None:
        raise DataError(f"{path} must have one of test, x and data, got {', '.join(arrays) or 'none of these'}")
    array = arrays[name]
    if array.dtype.kind not in "buif" or array.ndim < 2:
        raise DataError(f"{path} has {name or 'an array'} of {array.dtype} {array.shape}, expected numbers (N, ...)")
    return array


def observations(path: Path, data_dim: int) -> tuple[Tensor, tuple[int, ...]]:
    """Return the rows of a file as float32 (N, D) with NaN in place of missing values, and the shape of its array.

    Raises DataError if the rows do not have D numbers, or no value is missing.
    """
    array = read_table(path)
    x = torch.from_numpy(np.array(array, dtype=np.float32)).flatten(1)
    if x.shape[1] != data_dim:
        raise DataError(f"{path} has observations of {x.shape[1]} numbers, expected the run's {data_dim}")
    if x.isinf().any():
        raise DataError(f"{path} has infinity, or numbers beyond float32")
    if not x.isnan().any():
        raise DataError(f"{path} has no missing value: missing ones must be NaN")
    return x, array.shape


def write(path: Path, found: Imputation, shape: tuple[int, ...]) -> None:
    """Write imputed observations in the shape of the file's array.

    A .npy or .csv file has the draws if there are any, else the medians if there are any, else the means; a .npz file
    has all of them, with the estimate of log p(x_observed) in nats, the effective sample size and k-hat per row.
    """

    def shaped(tensor: Tensor) -> NDArray[Any]:
        lead = tensor.shape[:-2]
        return tensor.cpu().reshape(*lead, *shape).numpy()

    tables = {"mean": found.mean, "median": found.median, "draws": found.draws}
    arrays = {name: shaped(tensor) for name, tensor in tables.items() if tensor is not None}
    chosen = next(arrays[name] for name in ("draws", "median", "mean") if name in arrays)
    if path.suffix == ".csv":
        if chosen.ndim > 2:
            raise ValueError(f"{path} must end in .npy or .npz for an array of shape {chosen.shape}")
        rows = (",".join(f"{value:.9g}" for value in row) for row in chosen.tolist())
        replace_file(path, ("\n".join(rows) + "\n").encode())
        return
    estimate = found.log_likelihood
    diagnostics = {"log_likelihood": estimate.value, "ess": estimate.ess, "pareto_k": estimate.pareto_k}
    with path.open("wb") as file:
        if path.suffix == ".npy":
            np.save(file, chosen, allow_pickle=False)
        else:
            everything: dict[str, Any] = {
                **arrays,
                **{name: value.cpu().numpy() for name, value in diagnostics.items()},
            }
            np.savez(file, **everything)
