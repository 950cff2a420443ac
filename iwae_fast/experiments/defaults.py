"""Defaults of evaluations, in a module that does not import torch."""

EVALUATION_K = 5000
"""Samples per observation, as in the papers."""

IMPUTATION_K = 1000
"""Samples per observation of ``iwae-fast impute``."""

OBSERVATIONS = 1000
"""The most test observations in the evaluation after training, and the number of training observations, and of test
observations without inactive units, in any evaluation. ``iwae-fast evaluate`` uses the whole test set."""
