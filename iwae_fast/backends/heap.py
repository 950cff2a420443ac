"""Large blocks of memory: used again instead of returned, and returned where many chunks cannot use them again."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

import torch

BLOCK = 2**25 - 2**13
"""Bytes: just below the largest block, 32 MiB, from which glibc learns."""

MOST_LEFT_FREE = 2**26
"""Bytes by which the resident set may grow over many chunks before free memory is returned: 64 MiB, as much as glibc
leaves free at the end of its heap once it has learned from ``BLOCK``."""

ENVIRONMENT = "IWAE_FAST_KEEP_BLOCKS"
"""The environment variable that turns :func:`keep_large_blocks` off where it is "0"."""

_done = False

_least = 0
"""Bytes in memory after free memory was last returned, or the fewest seen since; 0 before the first chunk."""


def keep_large_blocks() -> None:
    """Let the C library keep freed blocks of up to 32 MiB for the next ones, once in a process.

    glibc returns large blocks to the operating system until the first one of their size was freed, and again whenever
    twice as much is free; the fresh pages that follow cost an evaluation a tenth of its time. So one as large as it
    learns from is asked for and freed, which touches no memory. Other C libraries do not mind.
    """
    global _done
    if not _done and not torch.compiler.is_compiling() and os.environ.get(ENVIRONMENT) != "0":
        torch.empty(BLOCK, dtype=torch.uint8)
        _done = True


def return_free_memory(device: torch.device) -> None:
    """Return free memory to the operating system if the process has grown by more than 64 MiB since it last did so.

    This is to be called after each of many chunks. A chunk's large blocks are freed before the next chunk asks for
    blocks of the same sizes, but small results that are kept, such as log-weights and nodes of autograd, are put into
    the gaps. A large block then fits there no more, and glibc takes new memory for it at the end of its heap. What is
    free within the heap it returns only when asked. It is asked rarely, since pages that were returned cost time when
    they are needed again.

    Nothing happens for chunks on another device than the CPU, while torch.compile traces, and without glibc.
    """
    global _least
    if device.type != "cpu" or torch.compiler.is_compiling() or (glibc := _glibc()) is None:
        return
    now = _resident()
    if now > _least + MOST_LEFT_FREE and _least > 0:
        glibc.malloc_trim(0)
        _least = _resident()
    elif now < _least or _least == 0:
        _least = now


@cache
def _glibc() -> Any:
    """Return the C library, or None where it does not return free memory when asked or Linux does not say how much
    memory the process has."""
    if not os.access("/proc/self/statm", os.R_OK):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None


def _resident() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
