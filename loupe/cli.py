"""The `loupe` command: a group that imports each subcommand when it runs."""

import logging
import os
import subprocess
import sys
import threading
from typing import Annotated

import typer
from typer.core import TyperCommand, TyperGroup

from loupe.commands import find_command, installed
from loupe.errors import LoupeError, ProgramFailed
from loupe.logs import LogFormatter, log_to_stderr
from loupe.settings import override_settings
from loupe.terminal import console, print_error, styled

# Name: where the command is, imported when it runs, and the extra with the packages it needs.
COMMANDS = {
    "train": ("train.cli:app", "train"),
    "data": ("train.data.cli:app", "train"),
    "models": ("loupe.models.cli:app", "train"),
    "serve": ("service.cli:serve", "service"),
    "predict": ("loupe.client.cli:predict", "client"),
    "key": ("service.cli:key", "service"),
    "worker": ("worker.cli:worker", "worker"),
    "score": ("worker.cli:score", "worker"),
    "jobs": ("worker.jobs_cli:app", "worker"),
    "up": ("loupe.cli:up", "all"),
}
PACKAGES = frozenset({"loupe", "service", "train", "worker"})


class LazyGroup(TyperGroup):
    """The subcommands of the installed programs; a container image has only some of them."""

    def list_commands(self, ctx: object) -> list[str]:
        """Return the names of the installed subcommands."""
        return [name for name in COMMANDS if _installed(name)]

    def get_command(self, ctx: object, cmd_name: str) -> TyperCommand | TyperGroup | None:
        """Import a subcommand, or return `None` if its program is not installed."""
        if cmd_name not in COMMANDS or not _installed(cmd_name):
            return None
        return find_command(COMMANDS[cmd_name][0], cmd_name)


def _installed(name: str) -> bool:
    if name == "up":  # starts both
        return _installed("serve") and _installed("worker")
    return installed(COMMANDS[name][0])


app = typer.Typer(
    cls=LazyGroup,
    name="loupe",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def loupe() -> None:
    """Train, serve and bulk-score classifiers of small images.

    docs/settings.md lists the LOUPE_… environment variables.
    """


def main() -> None:
    """Run the command line; an expected error prints one message, never a traceback."""
    disable_telemetry()
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(LogFormatter())  # for warnings of commands without a log
    try:
        app()
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
    extra = COMMANDS[command][1]
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


def up(
    port: Annotated[
        int | None, typer.Option(help="Port of the service. Default: LOUPE_PORT.")
    ] = None,
) -> None:
    """Run everything: an embedded Redis, a worker and the service, until Ctrl-C."""
    settings = override_settings(port=port)
    log_to_stderr(settings.log_format)
    from loupe.models.store import list_models
    from loupe.runtime.ports import listen
    from loupe.runtime.processes import stop_on_signals
    from loupe.runtime.stack import running_stack

    for each in listen(settings.host, settings.port):  # fail before the training
        each.close()
    if not list_models():
        console.print("The model store is empty: training a first model on Fashion-MNIST.")
        _train_first()
    stopping, hurry = threading.Event(), threading.Event()
    with (
        stop_on_signals(stopping, hurry),
        running_stack(settings, stopping, hurry=hurry) as stack,
    ):
        for action, how in (
            ("predict", f"curl -F image=@PICTURE {stack.url}/predict"),
            ("score", "loupe score FOLDER --out RESULTS"),
            ("look", f"{stack.url} (web page), {stack.url}/metrics"),
        ):
            console.print(styled((f"{action:<8}", "bold"), f" {how}"))
        console.print("Ctrl-C stops everything.")
        console.print()
        stack.watch(stopping)


def _train_first() -> None:
    """Train a Fashion-MNIST model in about a minute."""
    options = ["--dataset", "fashion-mnist", "--architecture", "cnn-small", "--epochs", "2"]
    command = [sys.executable, "-m", "loupe.cli", "train", *options]
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
