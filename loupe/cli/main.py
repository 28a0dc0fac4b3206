"""The `loupe` command: a group that imports each subcommand when it runs."""

import logging
import os
import sys
from typing import Annotated, NamedTuple, cast

import typer
from typer.core import TyperCommand, TyperGroup

from loupe import __version__
from loupe.cli.commands import HELP_OPTIONS, Group, find_command, installed, make_plain
from loupe.errors import LoupeError, ProgramFailed
from loupe.logs import LogFormatter
from loupe.terminal import console, print_error

START = "Start here"
TRAINING = "Train and compare models"
CLASSIFYING = "Classify pictures"
SERVING = "Run the programs"


class Entry(NamedTuple):
    """A command: where it is, the extra with the packages it needs, and its place in the help."""

    target: str
    extra: str
    panel: str


COMMANDS = {
    "up": Entry("loupe.cli.start:up", "all", START),
    "doctor": Entry("loupe.cli.doctor:doctor", "all", START),
    "train": Entry("train.cli:app", "train", TRAINING),
    "data": Entry("train.data.cli:app", "train", TRAINING),
    "models": Entry("loupe.models.cli:app", "train", TRAINING),
    "predict": Entry("loupe.client.cli:predict", "client", CLASSIFYING),
    "score": Entry("worker.cli:score", "worker", CLASSIFYING),
    "jobs": Entry("worker.jobs_cli:app", "worker", CLASSIFYING),
    "serve": Entry("service.cli:serve", "service", SERVING),
    "worker": Entry("worker.cli:worker", "worker", SERVING),
    "key": Entry("service.cli:key", "service", SERVING),
}
PACKAGES = frozenset({"loupe", "service", "train", "worker"})


class LazyGroup(Group):
    """The subcommands of the installed programs; a container image has only some of them."""

    def list_commands(self, ctx: object) -> list[str]:
        """Return the names of the installed subcommands."""
        return [name for name in COMMANDS if _installed(name)]

    def get_command(self, ctx: object, cmd_name: str) -> TyperCommand | TyperGroup | None:
        """Import a subcommand, or return `None` if its program is not installed."""
        if cmd_name not in COMMANDS or not _installed(cmd_name):
            return None
        entry = COMMANDS[cmd_name]
        command = find_command(entry.target, cmd_name)
        command.rich_help_panel = entry.panel
        return command


def _installed(name: str) -> bool:
    if name == "up":  # starts both
        return _installed("serve") and _installed("worker")
    return installed(COMMANDS[name].target)


app = typer.Typer(
    cls=LazyGroup,
    name="loupe",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": HELP_OPTIONS},
    subcommand_metavar="COMMAND …",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"loupe {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def loupe(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Train, serve and bulk-score classifiers of small images.

    docs/settings.md lists the LOUPE_… environment variables.
    """
    if context.invoked_subcommand is None:
        from loupe.cli.start import print_next_steps

        print_next_steps()


def root() -> LazyGroup:
    """Return the group of all commands."""
    group = cast("LazyGroup", typer.main.get_command(app))
    make_plain(group, "")
    return group


def main() -> None:
    """Run the command line; an expected error prints one message, never a traceback."""
    disable_telemetry()
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(LogFormatter())  # for warnings of commands without a log
    try:
        root()()
    except LoupeError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in PACKAGES:
            raise
        print_error(_missing_package(error.name))
        sys.exit(ProgramFailed.exit_code)


def _missing_package(package: str) -> ProgramFailed:
    command = next((word for word in sys.argv[1:] if word in COMMANDS), "up")
    extra = COMMANDS[command].extra
    return ProgramFailed(
        f"`loupe {command}` needs the package '{package}', which is not installed. Install the "
        f"extra '{extra}': pip install -e '.[{extra}]' in a checkout; docs/install.md has "
        "other ways.",
        code="package_missing",
    )


def disable_telemetry() -> None:
    """Turn off the telemetry of BentoML and ONNX Runtime, here and in child processes.

    Variables that the user has set are kept.
    """
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
