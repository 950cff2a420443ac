"""The C++ extension, if it was built and loads."""

from __future__ import annotations

import importlib
from typing import Any

import torch  # noqa: F401 - before the extension, so that both share one OpenMP runtime

MODULE: Any = None
"""``iwae_fast._C``, or None."""

REASON: str | None = None
"""The reason why ``MODULE`` is None; None if it was loaded."""

try:
    MODULE = importlib.import_module(".._C", __package__)
except ModuleNotFoundError as _error:
    REASON = f"the C++ extension is not installed ({_error}); reinstall with a C++17 compiler to build it"
except ImportError as _error:
    REASON = f"the C++ extension does not load: {_error}"
