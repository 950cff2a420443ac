"""A single warning if the reference is used for CPU tensors because the C++ extension is missing."""

from __future__ import annotations

import warnings

ADVICE = (
    "install GCC or Clang and reinstall iwae_fast with pip install --force-reinstall --no-deps ('iwae-fast info' "
    "then says that backend cpu is available), or silence this with IWAE_FAST_BACKEND=reference"
)

_given = False


def warn_once(reason: str | None) -> None:
    """Warn, at the first call in this process, that the reference is used since kernels are missing, and why."""
    global _given
    if not _given:
        _given = True
        warnings.warn(
            f"iwae_fast runs on its reference backend, at several times the time and memory: {reason}; {ADVICE}",
            stacklevel=5,
        )
