"""``iwae-fast info``."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._version import __version__

if TYPE_CHECKING:
    from rich.table import Table


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say what is installed, which backends run here, and why others do not."""
    content = collect()
    if as_json:
        print(json.dumps(content, indent=2))
    else:
        from .progress import console

        console.print(_table(content))


def collect() -> dict[str, Any]:
    """Versions, threads, devices, and :func:`iwae_fast.backends.info`."""
    import torch

    from .. import backends

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


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _table(content: dict[str, Any]) -> Table:
    from rich.table import Table

    from .. import backends

    table = Table(show_header=False, title="iwae_fast", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name in ("iwae_fast", "python", "platform", "torch", "triton", "threads"):
        table.add_row(name, "not installed" if content[name] is None else str(content[name]))
    table.add_row("CUDA devices", ", ".join(content["cuda_devices"]) or "none")
    table.add_row("training steps", content["training_steps"])
    table.add_section()
    for name, backend in content["backends"].items():
        table.add_row(f"backend {name}", _describe(backend))
    table.add_section()
    for device, name in content["chosen"].items():
        forced = f" (forced by {backends.ENVIRONMENT})" if content["forced"] else ""
        table.add_row(f"{device} tensors use", f"{name}{forced}")
    return table


def _describe(backend: dict[str, Any]) -> str:
    if not backend["available"]:
        return f"not available: {backend['reason']}"
    details = {key: value for key, value in backend.items() if key not in ("available", "reason")}
    return "\n".join(["available", *(f"{key}: {_plain(value)}" for key, value in details.items())])


def _plain(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)
