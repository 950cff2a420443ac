"""Benchmarks: one work a file, named after the op; ``python -m benchmarks`` runs them."""
