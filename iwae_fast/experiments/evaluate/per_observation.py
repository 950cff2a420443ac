"""Results of an evaluation per observation, stored beside the means so that runs can be compared in pairs."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...evaluate import LogLikelihood
from ...files import reason, replace_file

ARRAYS = ("nll", "std_error", "ess", "pareto_k")


@dataclass(frozen=True)
class PerObservation:
    """Results for M test observations, in their order."""

    nll: NDArray[np.float64]
    """-log p(x), (M,) in nats."""
    std_error: NDArray[np.float64]
    """Standard error of the Monte Carlo estimate, (M,) in nats; NaN for a single sample."""
    ess: NDArray[np.float64]
    """Effective sample size, (M,)."""
    pareto_k: NDArray[np.float64]
    """Pareto k-hat, the shape of the weights' tail, (M,); may be -inf or inf, and is NaN where it is undefined."""
    images: str
    """The fingerprint of the observations."""
    rows: NDArray[np.int64] | None = None
    """Index of each observation in the data set's test part, (M,) from 0; None in files of earlier versions."""

    @classmethod
    def of(cls, result: LogLikelihood, images: str, rows: Tensor | None = None) -> PerObservation:
        parts = (-result.value, result.std_error, result.ess, result.pareto_k)
        nll, std_error, ess, pareto_k = (part.cpu().numpy() for part in parts)
        return cls(nll, std_error, ess, pareto_k, images, None if rows is None else rows.numpy())

    def save(self, path: Path) -> None:
        """Write an .npz file atomically."""
        content = io.BytesIO()
        arrays: dict[str, Any] = {name: getattr(self, name) for name in ARRAYS}
        if self.rows is not None:
            arrays["rows"] = self.rows
        np.savez(content, images=self.images, **arrays)
        replace_file(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> PerObservation:
        """Read a file of :meth:`save`; raises ValueError naming the file if it is not one, OSError if it is missing."""
        try:
            with np.load(path) as file:
                nll, std_error, ess, pareto_k = (file[name] for name in ARRAYS)
                rows = file["rows"] if "rows" in file else None  # noqa: SIM401 - no dict
                return cls(nll, std_error, ess, pareto_k, str(file["images"]), rows)
        except (ValueError, KeyError, BadZipFile, EOFError) as error:
            raise ValueError(f"{path} does not hold the results of an evaluation: {reason(error)}") from error
