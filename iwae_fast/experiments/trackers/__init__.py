"""Runs in experiment trackers: small adapters of TensorBoard, Weights & Biases and MLflow.

``base.py`` has the interface, each further file the adapter of one library, which it imports when a run begins there.
``table.py`` lists them, ``channel.py`` keeps their failures away from training, and ``reporter.py`` is the callback of
training that logs to them.
"""
