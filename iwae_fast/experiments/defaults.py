"""What an evaluation takes unless it is told otherwise, where no import of torch is needed to know it."""

EVALUATION_K = 5000
"""Samples per observation, as in the papers."""

OBSERVATIONS = 1000
"""Test observations that the evaluation after training takes at most, and training observations, and test observations
without inactive units, that any evaluation takes. ``iwae-fast evaluate`` takes the whole test set."""
