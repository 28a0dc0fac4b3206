"""Find commands by name, so that the core runs commands of programs that it does not import."""

import importlib
import importlib.util
from typing import cast

import typer
from typer.core import TyperCommand, TyperGroup


def installed(target: str) -> bool:
    """Return whether the program of a command, `package.module:attribute`, is installed."""
    try:
        return importlib.util.find_spec(target.partition(":")[0]) is not None
    except ModuleNotFoundError:  # the program's package
        return False


def find_command(target: str, name: str) -> TyperCommand | TyperGroup:
    """Import a command, `package.module:attribute`, and give it a name."""
    module, _, attribute = target.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    command: TyperCommand | TyperGroup
    if isinstance(found, typer.Typer):
        command = typer.main.get_group(found)
    else:
        single = typer.Typer(add_completion=False)
        single.command()(found)
        command = cast("TyperCommand", typer.main.get_command(single))
    command.name = name
    return command
