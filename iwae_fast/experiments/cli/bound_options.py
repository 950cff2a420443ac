"""The options of bounds, one per setting."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter
from typing import Annotated, Any, get_type_hints

import typer

from ..bound_settings import BoundSettings


def with_bound_options(panel: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per setting of a bound, after ``--bound``; it receives them as ``**bound_settings``.

    Options that are not given are None. Typer reads them from the signature, which this changes.

    Args:
        panel: the panel of the help that shows the options.
    """
    types = get_type_hints(BoundSettings)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        parameters: list[Parameter] = []
        for name, parameter in signature.parameters.items():
            if parameter.kind is not Parameter.VAR_KEYWORD:
                parameters.append(parameter)
            if name == "bound":
                parameters.extend(
                    Parameter(
                        setting.name,
                        parameter.kind,
                        default=None,
                        annotation=_option(types[setting.name], setting, panel),
                    )
                    for setting in fields(BoundSettings)
                )
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def _option(kind: Any, setting: Any, panel: str) -> Any:
    option = typer.Option(help=setting.metadata["help"], show_default=str(setting.default), rich_help_panel=panel)
    return Annotated[kind | None, option]
