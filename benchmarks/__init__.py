"""Benchmarks, one file per workload; ``python -m benchmarks`` runs them."""
