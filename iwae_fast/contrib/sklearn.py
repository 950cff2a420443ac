"""An imputer with the interface of scikit-learn: importance-weighted autoencoders for tables with missing values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..bounds import IWAE
from ..imputation import Imputation
from ..imputation.tables import TableColumn, encode
from ..imputation.training import fit
from ..likelihoods import Gaussian, Likelihood, Mixed, StudentT
from ..likelihoods.columns import KINDS
from ..models import VAE, DenseVAE, GeneralMasking, NotMIWAE, SelfMasking
from ..objectives import Objective

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as _error:
    raise ImportError(
        f"iwae_fast.contrib.sklearn needs scikit-learn 1.6 or newer: {_error}; pip install 'iwae_fast[sklearn]'"
    ) from _error

STATISTICS = ("mean", "median", "draw")
MISSINGNESS = ("ignorable", "self-masking", "self-masking-high", "self-masking-low", "general")
REAL = ("gaussian", "student-t")


class MIWAEImputer(TransformerMixin, BaseEstimator):
    """Imputation of missing values by a deep latent-variable model: MIWAE (Mattei & Frellsen 2019) and not-MIWAE
    (Ipsen, Mattei & Frellsen 2021), with scikit-learn's ``fit`` and ``transform``.

    ``fit`` trains a :class:`iwae_fast.models.DenseVAE` by the IWAE bound on the observed values, in which real columns
    are standardized. ``transform`` replaces missing values by self-normalized importance sampling:
    :func:`iwae_fast.imputation.impute`. Arrays give arrays, and DataFrames of pandas give DataFrames with their index.
    A column without values in ``fit`` is imputed with 0.

    Args:
        columns: kinds of columns, "real", "count", "binary" or "categorical", by name, or by index for arrays. Others
            are real, except that columns of a DataFrame that hold categories, strings, objects or bools are
            categorical.
        real: the likelihood of real columns, "gaussian" or "student-t".
        missingness: "ignorable" if values are missing (completely) at random; "self-masking" if a value's being missing
            depends on the value ("self-masking-high" or "-low" if high or low ones are known to be missing more often);
            "general" if it depends on all values of the row. All but the first need Gaussian real columns alone.
        latent_dim: Z; half the number of columns, from 1 to 10, if None.
        hidden_dims: sizes of the hidden layers of the encoder, which the decoder mirrors.
        num_samples: k of the bound in training.
        max_epochs: passes over the table in training.
        batch_size, learning_rate, weight_decay: of AdamW; the rate decreases to 0 by a cosine.
        log_std_bounds: bounds (low, high) of the log standard deviation of a standardized real column.
        statistic: the replacement of missing values: their "mean" or "median" given the observed ones, or one "draw".
            Classes are the most probable ones except for "draw".
        imputation_samples: k of ``transform``.
        missing_values: the value of missing entries in arrays; in DataFrames, pandas' missing values count too.
        random_state: an int, a RandomState or None. With an int, ``fit`` and ``transform`` are repeatable.

    Attributes:
        model_: the trained model, whose x are the numbers of :attr:`columns_`.
        columns_: the code of each column.
        loss_curve_: minus the bound in nats per row, by epoch.
        n_features_in_, feature_names_in_: as in scikit-learn.
    """

    def __init__(
        self,
        *,
        columns: Mapping[Any, str] | None = None,
        real: str = "gaussian",
        missingness: str = "ignorable",
        latent_dim: int | None = None,
        hidden_dims: Sequence[int] = (64,),
        num_samples: int = 20,
        max_epochs: int = 300,
        batch_size: int = 64,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.0,
        log_std_bounds: tuple[float, float] | None = (-3.0, 2.0),
        statistic: str = "mean",
        imputation_samples: int = 1000,
        missing_values: Any = np.nan,
        random_state: Any = None,
    ) -> None:
        self.columns = columns
        self.real = real
        self.missingness = missingness
        self.latent_dim = latent_dim
        self.hidden_dims = hidden_dims
        self.num_samples = num_samples
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.log_std_bounds = log_std_bounds
        self.statistic = statistic
        self.imputation_samples = imputation_samples
        self.missing_values = missing_values
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> MIWAEImputer:  # noqa: N803, ARG002
        """Train the model on a table (N, D); ``y`` is ignored."""
        for name, known in (("statistic", STATISTICS), ("missingness", MISSINGNESS), ("real", REAL)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        values, missing, kinds = self._table(X, reset=True)
        self.columns_ = [
            TableColumn.fit(name, kind, column, gone)
            for (name, kind), column, gone in zip(kinds, values, missing.T, strict=True)
        ]
        x = torch.from_numpy(encode(self.columns_, values, missing)).float()
        state = check_random_state(self.random_state)
        seed = int(state.randint(2**31))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model_ = self._model(x)
            self.loss_curve_ = fit(
                self.model_,
                Objective(IWAE(), "dreg", num_samples=self.num_samples),
                x,
                ~x.isnan(),
                epochs=self.max_epochs,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
            )
        self._seed = seed
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        """Return the table with its missing values replaced by the ``statistic``."""
        check_is_fitted(self, "model_")
        values, missing, _ = self._table(X, reset=False)
        draw, median = self.statistic == "draw", self.statistic == "median"
        found = self._imputed(values, missing, num_draws=int(draw), median=median)
        if draw and found.draws is not None:
            numbers = found.draws[0]
        else:
            numbers = found.mean if found.median is None else found.median
        return self._filled(X, values, missing, numbers)

    def sample(self, X: Any, num_draws: int = 1) -> list[Any]:  # noqa: N803
        """Return ``num_draws`` copies of the table whose missing values are drawn given the observed ones of their row,
        for multiple imputation."""
        check_is_fitted(self, "model_")
        values, missing, _ = self._table(X, reset=False)
        draws = self._imputed(values, missing, num_draws=num_draws).draws
        return [self._filled(X, values, missing, numbers) for numbers in (() if draws is None else draws)]

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """Return the names of the columns, which are those of the input."""
        from sklearn.utils.validation import _check_feature_names_in

        check_is_fitted(self, "model_")
        return _check_feature_names_in(self, input_features)

    def _model(self, x: Tensor) -> VAE:
        schema = [column.schema for column in self.columns_]
        likelihood: Likelihood
        if any(column.kind != "real" for column in schema):
            likelihood = Mixed(schema, real=self.real, log_std_bounds=self.log_std_bounds)
        elif self.real == "gaussian":
            likelihood = Gaussian(log_std_bounds=self.log_std_bounds)
        else:
            likelihood = StudentT(self.log_std_bounds)
        size = x.shape[1]
        latent_dim = max(1, min(10, size // 2)) if self.latent_dim is None else self.latent_dim
        known = ~x.isnan()
        mean = torch.where(known, x, 0.0).sum(0) / known.sum(0).clamp(min=1)
        model: VAE = DenseVAE(size, (latent_dim,), tuple(self.hidden_dims), likelihood=likelihood, data_mean=mean)
        if self.missingness == "ignorable":
            return model
        if not isinstance(likelihood, Gaussian):
            other = next((c.name for c in schema if c.kind != "real"), None)
            cause = "real is not 'gaussian'" if other is None else f"column {other!r} is not real"
            raise ValueError(f"missingness must be 'ignorable' where {cause}, got {self.missingness!r}")
        if self.missingness == "general":
            return NotMIWAE.of(model, GeneralMasking(size))
        direction = self.missingness.removeprefix("self-masking").removeprefix("-") or None
        return NotMIWAE.of(model, SelfMasking(size, direction))

    def _table(self, X: Any, reset: bool) -> tuple[list[NDArray[Any]], NDArray[np.bool_], list[tuple[str, str]]]:  # noqa: N803
        """Return the columns, where they are missing (N, D), and their names and kinds."""
        if hasattr(X, "iloc") and hasattr(X, "dtypes"):
            validate_data(self, X, reset=reset, skip_check_array=True)
            if not len(X) or not X.shape[1]:
                raise ValueError(f"Found array with {len(X)} sample(s) and {X.shape[1]} feature(s) (shape={X.shape})")
            missing = X.isna().to_numpy()
            values = [_column(X.iloc[:, i]) for i in range(X.shape[1])]
            names, defaults = list(X.columns), ["real" if _is_number(dtype) else "categorical" for dtype in X.dtypes]
        else:
            X = validate_data(self, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan")
            missing = np.isnan(X)
            values = list(X.T)
            names, defaults = list(range(X.shape[1])), ["real"] * X.shape[1]
        if not _is_nan(self.missing_values):
            missing = missing | np.stack([column == self.missing_values for column in values], 1)
        given = dict(self.columns or {})
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ValueError(f"columns must name columns of X, got {unknown[0]!r}")
        for name, kind in given.items():
            if kind not in KINDS:
                raise ValueError(f"columns must be one of {', '.join(KINDS)}, got {kind!r} for {name!r}")
        kinds = [(str(name), given.get(name, default)) for name, default in zip(names, defaults, strict=True)]
        return values, missing, kinds

    def _imputed(
        self, values: list[NDArray[Any]], missing: NDArray[np.bool_], *, num_draws: int, median: bool = False
    ) -> Imputation:
        x = torch.from_numpy(encode(self.columns_, values, missing)).float()
        model: VAE = self.model_
        return model.impute(x, num_samples=self.imputation_samples, num_draws=num_draws, median=median, seed=self._seed)

    def _filled(
        self,
        X: Any,  # noqa: N803
        values: list[NDArray[Any]],
        missing: NDArray[np.bool_],
        numbers: Tensor,
    ) -> Any:
        """Return the table with decoded numbers in place of its missing values."""
        found = numbers.double().numpy()
        is_frame = hasattr(X, "iloc") and hasattr(X, "dtypes")
        table = X.copy() if is_frame else np.stack(values, 1).astype(np.float64)
        for index, (column, gone) in enumerate(zip(self.columns_, missing.T, strict=True)):
            if not gone.any():
                continue
            decoded = column.decode(found[gone, index])
            if not is_frame:
                table[gone, index] = decoded
                continue
            whole = table.iloc[:, index]
            name = table.columns[index]
            if column.categories is None and not _is_float(whole.dtype):
                whole = whole.astype("float64")  # a mean of whole numbers is a real number
            whole = whole.copy()
            whole.loc[gone] = decoded
            table[name] = whole
        return table

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _column(series: Any) -> NDArray[Any]:
    """Return the values of a column of pandas: numbers as float64, anything else as objects."""
    if _is_number(series.dtype):
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    return series.to_numpy(dtype=object)


def _is_number(dtype: Any) -> bool:
    return getattr(dtype, "kind", "O") in "iuf"


def _is_float(dtype: Any) -> bool:
    return getattr(dtype, "kind", "O") == "f"


def _is_nan(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))
