"""The first steps: what to do next, and `loupe up`."""

import subprocess
import sys
import threading
from importlib.util import find_spec
from typing import Annotated

import typer

from loupe.logs import log_to_stderr
from loupe.settings import override_settings
from loupe.terminal import console, styled

FIRST_DATASET = "fashion-mnist"


def print_next_steps() -> None:
    """Print the commands that are of use now: in an empty store, others than with models."""
    from loupe.models.store import list_models

    models = list_models()
    if models:
        steps = {
            "loupe up": "serve them: a web page, HTTP and bulk scoring",
            "loupe predict PICTURE --local": "classify pictures without a service",
            "loupe score FOLDER --out RESULTS.csv": "classify many pictures",
            "loupe models": "list and compare the models",
        }
        newest = models[0].tag
        state = f"The store has {len(models):,} model{'s'[: len(models) > 1]}; the newest: {newest}"
    elif find_spec("tensorflow") is None:
        steps = {
            "pip install -e '.[train]'": "install the training, in a checkout; or copy a store"
        }
        state = "There is no model yet, and training is not installed."
    else:
        steps = {
            "loupe up": "train a first model of clothes in about a minute, and serve it",
            "loupe train digits": "train on another data set, or on your own: loupe train FOLDER",
        }
        state = "There is no model yet."
    print_commands(state, steps | {"loupe --help": "all commands"})


def print_commands(title: str, steps: dict[str, str]) -> None:
    """Print commands, and what each is good for, below a title."""
    width = max(map(len, steps))
    console.print(title)
    for command, purpose in steps.items():
        console.print(styled("  ", (command.ljust(width), "bold"), f"  {purpose}"))


def up(
    port: Annotated[
        int | None, typer.Option(help="Port of the service.", show_default="LOUPE_PORT, 3000")
    ] = None,
    processes: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Processes of the service, as for `loupe serve`.",
            show_default="LOUPE_PROCESSES, 1",
        ),
    ] = None,
    train: Annotated[
        str,
        typer.Option(
            metavar="DATASET",
            help="Data set of the first model, as for `loupe train`, if there is no model yet.",
        ),
    ] = FIRST_DATASET,
) -> None:
    """Run everything: an embedded Redis, a worker and the service, until Ctrl-C.

    If the store is empty, it trains a small first model before.
    """
    settings = override_settings(port=port, processes=processes)
    log_to_stderr(settings.log_format)
    from loupe.models.store import list_models
    from loupe.runtime.ports import listen
    from loupe.runtime.processes import stop_on_signals
    from loupe.runtime.stack import running_stack

    for each in listen(settings.host, settings.port):  # fail before the training
        each.close()
    if not list_models():
        console.print("There is no model yet.")
        _train_first(train)
    stopping, hurry = threading.Event(), threading.Event()
    with (
        stop_on_signals(stopping, hurry),
        running_stack(settings, stopping, hurry=hurry) as stack,
    ):
        steps = {
            f"curl -F image=@PICTURE {stack.url}/predict": "classify a picture",
            "loupe predict PICTURE …": "classify pictures, as a table",
            "loupe score FOLDER --out RESULTS.csv": "classify many pictures",
        }
        console.print()
        console.print(styled("Open ", (stack.url, "bold"), " and draw, or drop pictures there."))
        print_commands("In another terminal:", steps)
        console.print("Ctrl-C stops everything.")
        console.print()
        stack.watch(stopping)


def _train_first(dataset: str) -> None:
    """Train a small model."""
    command = [sys.executable, "-m", "loupe", "train", dataset, "--quick"]
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)
