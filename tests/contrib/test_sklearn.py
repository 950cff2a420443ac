"""Tests of the imputer of scikit-learn's interface."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip(
    "sklearn", minversion="1.6", reason="scikit-learn 1.6 is not installed: it is in the extra 'sklearn'"
)

import fresh
from sklearn.utils.estimator_checks import parametrize_with_checks

from iwae_fast.contrib.sklearn import MIWAEImputer
from iwae_fast.imputation.tables import TableColumn

QUICK: dict[str, Any] = {
    "max_epochs": 2,
    "num_samples": 2,
    "imputation_samples": 5,
    "hidden_dims": (4,),
    "random_state": 0,
}


@parametrize_with_checks([MIWAEImputer(**QUICK)])
def test_checks_of_scikit_learn(estimator: MIWAEImputer, check: Any) -> None:
    check(estimator)


def correlated(rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Return a table of four columns with one factor, and it with a third of its values missing."""
    generator = np.random.default_rng(0)
    factor = generator.normal(size=(rows, 1))
    x = 10.0 + 5.0 * (factor @ np.array([[1.0, -1.0, 1.0, 0.5]]) + 0.2 * generator.normal(size=(rows, 4)))
    return x, np.where(generator.random(x.shape) < 0.33, np.nan, x)


def rmse(found: np.ndarray, x: np.ndarray, given: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - x)[np.isnan(given)].mean()))


def test_imputation_uses_the_other_columns() -> None:
    """Compare with the column means, whose error is the standard deviation of the columns."""
    x, given = correlated()
    imputer = MIWAEImputer(
        max_epochs=60, latent_dim=1, hidden_dims=(16,), learning_rate=0.01, imputation_samples=200, random_state=0
    )
    found = imputer.fit_transform(given)
    assert np.array_equal(found[~np.isnan(given)], x[~np.isnan(given)])
    assert rmse(found, x, given) < 0.6 * rmse(np.broadcast_to(np.nanmean(given, 0), x.shape), x, given)
    assert imputer.loss_curve_[-1] < imputer.loss_curve_[0] - 0.5
    assert np.array_equal(imputer.transform(given), found)
    median = imputer.set_params(statistic="median").transform(given)
    assert rmse(median, found, given) < 2.0
    draws = np.stack(imputer.sample(given, 30))
    assert draws.shape == (30, *x.shape)
    assert (draws.std(0)[np.isnan(given)] > 0).all()
    assert (draws[:, ~np.isnan(given)] == x[~np.isnan(given)]).all()
    assert rmse(draws.mean(0), found, given) < 1.0
    once = imputer.set_params(statistic="draw").transform(given)
    assert np.array_equal(once, imputer.sample(given)[0])


@pytest.mark.parametrize("missingness", ["self-masking", "self-masking-high", "self-masking-low", "general"])
def test_models_of_missingness(missingness: str) -> None:
    _, given = correlated(40)
    found = MIWAEImputer(**{**QUICK, "missingness": missingness}).fit_transform(given)
    assert np.isfinite(found).all()


def test_data_frames() -> None:
    pandas = pytest.importorskip("pandas")
    generator = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "dose": generator.normal(size=60),
            "blood": generator.choice(["0", "A", "B"], 60),
            "visits": generator.integers(0, 9, 60),
            "smoker": generator.random(60) < 0.4,
            "site": generator.choice(["x", "y"], 60),
        },
        index=[f"row {i}" for i in range(60)],
    )
    whole = frame.copy()
    frame["blood"] = frame["blood"].astype("category")
    frame["visits"] = frame["visits"].astype("Int64")
    frame["smoker"] = frame["smoker"].astype(object)
    holes = generator.random(frame.shape) < 0.25
    for column, name in enumerate(frame.columns):
        frame.loc[holes[:, column], name] = None
    imputer = MIWAEImputer(**{**QUICK, "columns": {"visits": "count"}})
    found = imputer.fit_transform(frame)
    assert list(found.columns) == list(frame.columns)
    assert list(found.index) == list(frame.index)
    assert not found.isna().any(axis=None)
    assert found["blood"].dtype == frame["blood"].dtype
    assert set(found["site"]) <= {"x", "y"}
    assert set(found["smoker"]) <= {True, False}
    assert (found["visits"] >= 0).all()
    for column, name in enumerate(frame.columns):
        assert (found[name][~holes[:, column]] == whole[name][~holes[:, column]]).all(), name
    assert frame.isna().any(axis=None)  # the input is not changed
    kinds = [column.kind for column in imputer.columns_]
    assert kinds == ["real", "categorical", "count", "binary", "binary"]
    assert imputer.get_feature_names_out().tolist() == list(frame.columns)
    other = frame.copy()
    other["site"] = "z"
    with pytest.raises(ValueError, match=r"column 'site' has the category 'z', which it did not have in fit\(\)"):
        imputer.transform(other)
    with pytest.raises(ValueError, match="missingness must be 'ignorable' where column 'blood' is not real"):
        MIWAEImputer(**{**QUICK, "missingness": "general"}).fit(frame)


def test_values_other_than_nan_and_empty_columns() -> None:
    x = np.array([[1.0, -1.0, 5.0], [2.0, -1.0, 6.0], [-1.0, -1.0, 7.0], [4.0, -1.0, -1.0]])
    found = MIWAEImputer(**{**QUICK, "missing_values": -1}).fit_transform(x)
    assert np.array_equal(found[x != -1], x[x != -1])
    assert (found != -1).all()
    constant = MIWAEImputer(**QUICK).fit_transform(np.array([[1.1, 2.0], [1.1, np.nan], [1.1, 3.0], [np.nan, 4.0]]))
    assert abs(constant[3, 0] - 1.1) < 20.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"statistic": "mode"}, "statistic must be one of mean, median, draw, got 'mode'"),
        ({"missingness": "mnar"}, "missingness must be one of ignorable, self-masking"),
        ({"real": "beta"}, "real must be one of gaussian, student-t, got 'beta'"),
        ({"columns": {9: "count"}}, "columns must name columns of X, got 9"),
        ({"columns": {0: "text"}}, "columns must be one of real, count, binary, categorical, got 'text' for 0"),
        ({"columns": {0: "count"}}, "column '0' must hold counts 0, 1, 2, ..., got"),
        ({"columns": {0: "binary"}}, "column '0' is binary, but has 40 values"),
        ({"max_epochs": 0}, "max_epochs must be at least 1"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    x, _ = correlated(40)
    with pytest.raises(ValueError, match=message):
        MIWAEImputer(**{**QUICK, **settings}).fit(x)


def test_codes_of_columns() -> None:
    values, none = np.array([3.0, 5.0, 7.0]), np.zeros(3, dtype=bool)
    real = TableColumn.fit("a", "real", values, none)
    np.testing.assert_allclose(real.decode(real.encode(values, none)), values)
    np.testing.assert_allclose(real.encode(values, none).std(), 1.0)
    classes = TableColumn.fit("b", "categorical", values, none)
    assert classes.encode(values, none).tolist() == [0.0, 1.0, 2.0]
    assert classes.decode(np.array([[0.2], [1.9]])).tolist() == [[3.0], [7.0]]


def test_without_scikit_learn() -> None:
    """Check that the package does not need scikit-learn, and the error of this module without it."""
    code = """
import sys
import sklearn.base
for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
    sys.modules[name] = None
import iwae_fast.imputation
try:
    import iwae_fast.contrib.sklearn
except ImportError as error:
    print(error)
"""
    result = fresh.run(code)
    assert result.returncode == 0, result.stderr
    assert "needs scikit-learn 1.6 or newer" in result.stdout
    assert "pip install 'iwae_fast[sklearn]'" in result.stdout
    assert "sklearn" in sys.modules
