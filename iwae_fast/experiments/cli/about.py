"""Installed versions and available backends, as data and as lines of text."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import torch

from ... import backends
from ..._version import __version__


def collect() -> dict[str, Any]:
    """Return versions, threads, devices, and :func:`iwae_fast.backends.info`."""
    return {
        "iwae_fast": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "threads": torch.get_num_threads(),
        "cuda_devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "training_steps": "captured as CUDA graphs" if torch.cuda.is_available() else "one by one: no CUDA device",
        **backends.info(),
    }


def sections(content: dict[str, Any]) -> list[list[tuple[str, str]]]:
    """Return the result of :func:`collect` as groups of (name, text); a text may have several lines."""
    versions = [
        (name, "not installed" if content[name] is None else str(content[name]))
        for name in ("iwae_fast", "python", "platform", "torch", "triton", "threads")
    ]
    versions.append(("CUDA devices", ", ".join(content["cuda_devices"]) or "none"))
    versions.append(("training steps", content["training_steps"]))
    found = [(f"backend {name}", _described(backend)) for name, backend in content["backends"].items()]
    forced = f" (forced by {backends.ENVIRONMENT})" if content["forced"] else ""
    chosen = [(f"{device} tensors use", f"{name}{forced}") for device, name in content["chosen"].items()]
    serving = [
        (f"{op} on CUDA", "\n".join(f"{choice['calls']}: {choice['backend']}. {choice['why']}" for choice in choices))
        for op, choices in content["serving"].items()
    ]
    return [versions, found, chosen, *([serving] if serving else [])]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _described(backend: dict[str, Any]) -> str:
    if not backend["available"]:
        return f"not available: {backend['reason']}"
    details = {key: value for key, value in backend.items() if key not in ("available", "reason")}
    return "\n".join(["available", *(f"{key}: {_plain(value)}" for key, value in details.items())])


def _plain(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)
