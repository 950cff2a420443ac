"""Benchmarks: one work a file; ``python -m benchmarks`` runs them."""
