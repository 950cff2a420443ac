"""Old spellings of arguments: they still work, and a DeprecationWarning names the new one (docs/support.md)."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def renamed_keywords(**names: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Accept old keywords of a function, given as ``old="new"``.

    The function raises TypeError where both are given.
    """

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @functools.wraps(function)
        def accepting(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            for old, new in names.items():
                if old in kwargs:
                    if new in kwargs:
                        raise TypeError(f"{function.__name__}() got {new} and {old}, its old name")
                    warn(f"the argument {old} of {function.__name__}()", f"{new}=")
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return accepting

    return decorate


def context_of(positional: Sequence[Tensor], context: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the context of a call, given by keyword or, as once, by further positional arguments."""
    if not positional:
        return tuple(context)
    if len(context):
        raise TypeError("context was given twice: by position and by keyword")
    warn("context as further positional arguments", "context=(...)", stacklevel=4)
    return tuple(positional)


def warn(old: str, new: str, stacklevel: int = 3) -> None:
    """Warn that an old spelling is deprecated, except while torch.compile traces."""
    if not torch.compiler.is_compiling():
        warnings.warn(f"{old} is deprecated in iwae_fast: use {new}", DeprecationWarning, stacklevel=stacklevel)
