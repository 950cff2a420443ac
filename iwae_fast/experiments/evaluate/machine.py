"""Description of the machine and of the sources behind a result."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import iwae_fast

CPU_INFO = Path("/proc/cpuinfo")


def processor() -> str:
    """Return the processor's model name and family from Linux, or else its architecture."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in lines if ":" in line)
    entries = {name.strip(): value.strip() for name, _, value in pairs}
    return f"{entries.get('model name', platform.machine())} family {entries.get('cpu family', '?')}"


def commit() -> str | None:
    """Return the commit of the running sources, with "+ changes" if files differ from it.

    Returns None if the package was installed without its repository.
    """
    sources = Path(iwae_fast.__file__).parent
    try:
        if not (sources.parent / ".git").exists():  # a parent folder may belong to another repository
            return None
        found = _git(sources, "rev-parse", "--short=12", "HEAD")
        changed = _git(sources, "status", "--porcelain", "--untracked-files=no", "--", str(sources.parent))
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{found} + changes" if changed else found


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
