"""The registered ops on the Triton backend, called by name with the flat arguments of their schemas."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import iwae_fast.ops.registry  # noqa: F401 - defines the ops


def __getattr__(name: str) -> Callable[..., Any]:
    return partial(getattr(torch.ops.iwae_fast, name), backend="triton")
