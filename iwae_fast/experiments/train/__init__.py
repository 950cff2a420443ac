"""Trains a model in a folder, which keeps settings, checkpoints and metrics."""
