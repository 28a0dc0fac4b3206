"""`python -m demo`: run the demonstration, stop everything it started, and exit 0, also on Ctrl-C."""

import logging
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.table import Table

from loupe.cli import disable_telemetry
from loupe.errors import LoupeError
from train.tensorflow import import_tensorflow

Row = tuple[str, str]


def main() -> None:
    """Run the demonstration from the command line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    disable_telemetry()
    logging.basicConfig(level=logging.WARNING)
    console = Console()
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="loupe-demo-") as folder:
            rows = run(console, Path(folder))
    except KeyboardInterrupt:
        console.print("\nStopped, and so is everything the demo had started.")
        return
    except LoupeError as error:
        console.print(f"\n[bold red]error:[/] {error.message}", highlight=False)
        sys.exit(1)
    rows.append(("all of this", f"{time.monotonic() - started:.0f} s"))
    _print_table(console, rows)


def run(console: Console, folder: Path) -> list[Row]:
    """Train, serve, predict and score; `folder` takes what is not to stay. Returns what was measured, for the table."""
    console.rule("[bold]1  data")
    from demo import data, predictions, scoring

    dataset = data.load(console)
    console.rule("[bold]2  train")
    with console.status("starting TensorFlow"):
        import_tensorflow()
    from demo.model import train_model

    model = train_model(dataset, console)
    rows = [
        ("model", model.tag),
        ("test accuracy", f"{model.card.figures.accuracy:.4f}"),
    ]
    from demo.stack import started_stack

    with started_stack(model.tag, folder, console) as stack:
        console.rule("[bold]3  predict, over HTTP")
        rows += predictions.run(stack.url, dataset, console)
        console.rule("[bold]4  score in bulk, through the queue")
        rows += scoring.run(stack.redis, model, dataset, folder, console)
    console.print(
        "Stopped the service, the worker and Redis. The model stays in the store: make up"
    )
    return rows


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Interrupt once; a second Ctrl-C must not disturb the cleaning up."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _print_table(console: Console, rows: list[Row]) -> None:
    table = Table(title="Loupe", show_header=False, title_style="bold")
    table.add_column(style="bold")
    table.add_column(justify="right")
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)


if __name__ == "__main__":
    main()
