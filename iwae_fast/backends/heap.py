"""Large blocks of memory: glibc is made to reuse freed ones, and to return them if many chunks fragment the heap."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

import torch

BLOCK = 2**25 - 2**13
"""Bytes: just below 32 MiB, the largest block for which glibc adapts its mmap threshold."""

MOST_LEFT_FREE = 2**26
"""Bytes by which the resident set may grow over many chunks before free memory is returned: 64 MiB, which is what glibc
leaves free at the end of its heap after adapting to ``BLOCK``."""

ENVIRONMENT = "IWAE_FAST_KEEP_BLOCKS"
"""The environment variable that turns :func:`keep_large_blocks` off where it is "0"."""

_done = False

_least = 0
"""Resident bytes after free memory was last returned, or the minimum since then; 0 before the first chunk."""


def keep_large_blocks() -> None:
    """Make the C library keep freed blocks of up to 32 MiB for reuse; runs once per process.

    glibc returns large blocks to the operating system until the first block of that size has been freed, and again
    whenever twice as much is free. The new pages then needed cost an evaluation a tenth of its time. Allocating and
    freeing one block of the largest size to which glibc adapts prevents this, without accessing its memory. It has no
    effect with other C libraries.
    """
    global _done
    if not _done and not torch.compiler.is_compiling() and os.environ.get(ENVIRONMENT) != "0":
        torch.empty(BLOCK, dtype=torch.uint8)
        _done = True


def return_free_memory(device: torch.device) -> None:
    """Return free memory to the operating system if the process has grown by more than 64 MiB since it last did so.

    This is to be called after each of many chunks. A chunk's large blocks are freed before the next chunk allocates
    blocks of the same sizes, but small results that outlive the chunk, such as log-weights and autograd nodes, are
    placed in the gaps. Large blocks then do not fit there any more, and glibc extends its heap. It returns free memory
    within the heap only on request. The request is made rarely, since returned pages cost time when they are needed
    again.

    This does nothing for chunks on devices other than the CPU, while torch.compile traces, and without glibc.
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
    """Return the C library, or None if it does not have malloc_trim or the process's memory cannot be read."""
    if not os.access("/proc/self/statm", os.R_OK):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None


def _resident() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
