"""Missing data: imputation by importance sampling. :mod:`iwae_fast.models` has the models, and ``docs/missing-data.md``
describes all of it."""

from .impute import Imputation, impute

__all__ = ["Imputation", "impute"]
