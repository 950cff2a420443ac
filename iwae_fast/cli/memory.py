"""Freed memory stays with the process."""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Of glibc's ``mallopt``."""

MEBIBYTE = 2**20


def keep_freed_memory() -> None:
    """Tell glibc to keep large blocks that were freed for the next ones.

    It returns them to the operating system, and a step would wait for fresh pages again and again. Nothing is changed
    with another C library, or where the environment has settings of its own.
    """
    if any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(TRIM_THRESHOLD, 1024 * MEBIBYTE)
    mallopt(MMAP_THRESHOLD, 1024 * MEBIBYTE)
    mallopt(TOP_PAD, 64 * MEBIBYTE)
