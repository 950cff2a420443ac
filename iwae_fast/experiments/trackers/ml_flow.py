"""The adapter of MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import PROJECT, Settings, Tracker, text

PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Defaults here of environment variables: by MLflow's own, a server that does not answer costs minutes."""
STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MLflow(Tracker):
    """A run of MLflow where its own environment variables say, such as MLFLOW_TRACKING_URI."""

    name, library = "mlflow", "mlflow"

    def begin(self, folder: Path, settings: Settings, identity: str | None, step: int) -> str:
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        self.client: Any = MlflowClient()
        shown = {name: str(text(value)) for name, value in settings.items()}
        if identity is None:
            self.identity: str = self.client.create_run(self._experiment(), run_name=folder.name).info.run_id
        else:
            self.identity = identity
            logged = self.client.get_run(identity).data.params
            self.client.update_run(identity, status="RUNNING")
            # A parameter cannot be logged again with another value.
            for name, value in shown.items():
                if logged.get(name, value) != value:
                    self.client.set_tag(identity, f"{name} from step {step}", value)
            shown = {name: value for name, value in shown.items() if name not in logged}
        for name, value in shown.items():
            self.client.log_param(self.identity, name, value)
        return self.identity

    def where(self) -> str:
        return f"run {self.identity}"

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.identity, [Metric(name, value, now, step) for name, value in values.items()])

    def picture(self, step: int, path: Path) -> None:  # noqa: ARG002 (artifacts do not have one)
        self.client.log_artifact(self.identity, str(path))

    def end(self, outcome: str) -> None:
        self.client.set_terminated(self.identity, STATUS[outcome])

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(name)
        return self.client.create_experiment(name) if found is None else found.experiment_id
