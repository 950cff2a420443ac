"""What a measurement depends on besides the code: processor, threads, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import torch

import iwae_fast as iw
from iwae_fast.experiments.evaluate.machine import processor


def conditions(device: torch.device) -> dict[str, Any]:
    """The columns of a row that say where and when it was measured."""
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
    """Of a provider's package; the two that may run from a folder know theirs."""
    own = {"torch": torch.__version__, "iwae_fast": iw.__version__}
    return own.get(package) or importlib.metadata.version(package)
