"""Evaluation of runs, storage of the results, and comparison."""
