"""Training of a model in a folder of settings, checkpoint and metrics."""
