"""`python -m demo`: run the demonstration, then stop everything it started, also on Ctrl-C."""

import logging
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.table import Table

from loupe.cli.main import disable_telemetry
from loupe.errors import LoupeError
from loupe.runtime.ports import free_port
from loupe.runtime.stack import running_stack
from loupe.settings import load_settings
from loupe.terminal import console, print_error, styled
from train.tensorflow import import_tensorflow

Row = tuple[str, str]


def main() -> None:
    """Run the demonstration from the command line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    disable_telemetry()
    logging.basicConfig(level=logging.WARNING)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="loupe-demo-") as folder:
            rows = run(Path(folder))
    except KeyboardInterrupt:
        console.print()
        console.print("Stopped everything that the demo had started.")
        return
    except LoupeError as error:
        console.print()
        print_error(error)
        sys.exit(1)
    rows.append(("total time", f"{time.monotonic() - started:.0f} s"))
    table = Table(title="Loupe", show_header=False, title_style="bold")
    table.add_column(style="bold")
    table.add_column(justify="right")
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)


def run(folder: Path) -> list[Row]:
    """Train, serve, predict and score; return rows of figures. `folder` takes temporary files."""
    from demo import data, predictions, scoring

    console.rule(styled(("1  data", "bold")))
    dataset = data.load()
    console.rule(styled(("2  train", "bold")))
    with console.status("starting TensorFlow"):
        import_tensorflow()
    from demo.model import train_model

    model = train_model(dataset)
    rows = [("model", model.tag), ("test accuracy", f"{model.card.measured.accuracy:.4f}")]
    # A temporary data folder and a free port keep the demo apart from the user's service.
    own = {"model": model.tag, "host": "127.0.0.1", "port": free_port(), "redis_url": None}
    settings = load_settings().model_copy(update={**own, "data_dir": folder / "data"})
    with running_stack(settings, threading.Event(), folder) as stack:
        console.print(f"started Redis, a worker and the service on {stack.url}")
        console.rule(styled(("3  predict, over HTTP", "bold")))
        rows += predictions.run(stack.url, dataset)
        console.rule(styled(("4  score in bulk, through the queue", "bold")))
        rows += scoring.run(stack.redis, model, dataset, folder)
        console.rule(styled(("5  stop", "bold")))
    console.print("Stopped the service, the worker and Redis.")
    console.print("The model stays in the store. To serve it: make up")
    return rows


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Interrupt once; a second Ctrl-C must not disturb the clean-up."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
