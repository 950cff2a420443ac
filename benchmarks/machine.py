"""The conditions of a measurement besides the code: processor, threads, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import torch

import iwae_fast as iw
from iwae_fast.experiments.evaluate.machine import processor


def conditions(device: torch.device) -> dict[str, Any]:
    """Return the columns of a row that describe the conditions of the measurement."""
    backends = iw.backends.info()["backends"]
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "triton": backends["triton"].get("version", ""),
        "iwae_fast": iw.__version__,
        "python": platform.python_version(),
        "isa": backends["cpu"].get("isa", ""),
    }


def version(package: str) -> str:
    """Return the version of a provider's package; torch and iwae_fast may run from a folder without metadata."""
    own = {"torch": torch.__version__, "iwae_fast": iw.__version__}
    return own.get(package) or importlib.metadata.version(package)
