"""Find commands by name, so that the core runs commands of programs that it does not import.

Their help is made plain here: options without Python types, and examples below.
"""

import importlib
import importlib.util
from difflib import get_close_matches
from typing import Any, cast

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from loupe.cli.examples import EXAMPLES

HELP_OPTIONS = ["-h", "--help"]
KINDS = {"int": "NUMBER", "float": "NUMBER", "str": "TEXT", "Path": "PATH"}


class Group(TyperGroup):
    """A group that names the command that a mistyped one may mean."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command of the arguments, or end with a suggestion."""
        if self.get_command(ctx, args[0]) is None:
            names = self.list_commands(ctx)
            below = [path for path in EXAMPLES if path.partition(" ")[2] == args[0]]
            meant = get_close_matches(args[0].lower(), names, 1) or below
            hint = f" Did you mean '{meant[0]}'?" if meant else ""
            ctx.fail(f"There is no command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)


def installed(target: str) -> bool:
    """Return whether the program of a command, `package.module:attribute`, is installed."""
    try:
        return importlib.util.find_spec(target.partition(":")[0]) is not None
    except ModuleNotFoundError:  # the program's package
        return False


def find_command(target: str, path: str) -> TyperCommand | TyperGroup:
    """Import a command, `package.module:attribute`, whose path is as `models export`."""
    module, _, attribute = target.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    command: TyperCommand | TyperGroup
    if isinstance(found, typer.Typer):
        command = typer.main.get_group(found)
    else:
        single = typer.Typer(add_completion=False)
        single.command()(found)
        command = cast("TyperCommand", typer.main.get_command(single))
    command.name = path.split()[-1]
    make_plain(command, path)
    return command


def make_plain(command: TyperCommand | TyperGroup, path: str) -> None:
    """Add examples to a command's help, and replace the Python types of its options."""
    if path in EXAMPLES:
        command.epilog = "\n".join(["Examples:", *(f"  {line}" for line in EXAMPLES[path])])
    context = typer.Context(command, help_option_names=HELP_OPTIONS)
    for parameter in command.get_params(context):
        if isinstance(parameter, TyperOption):
            parameter.metavar = _metavar(parameter)
            parameter.min = parameter.max = None  # only for help, which has the metavar
        elif isinstance(parameter, TyperArgument):
            _name_plainly(parameter)
    if isinstance(command, TyperGroup):
        for name, each in command.commands.items():
            make_plain(cast("TyperCommand | TyperGroup", each), f"{path} {name}")


def _name_plainly(argument: TyperArgument) -> None:
    """Show an argument as `TAG`, an optional one as `[TAG]`, and several as `TAG…`."""
    name = argument.display_name_raw
    usage = [name if argument.required else f"[{name}]"]
    argument.get_usage_pieces = lambda ctx: usage  # type: ignore[method-assign]
    argument.display_type_rich = lambda ctx: None  # type: ignore[method-assign]


def _metavar(parameter: TyperOption) -> str:
    """Return what stands for the value of an option: choices, a range, or a kind of value."""
    kind = parameter.type_descriptor
    if parameter.metavar is not None:
        return parameter.metavar
    if parameter.is_flag:
        return ""
    if kind.is_choice:
        return "|".join(map(str, kind.choices or ()))
    if parameter.max is not None:
        return f"{parameter.min}..{parameter.max}"
    return KINDS.get(parameter.bare_type(), "TEXT")
