"""Start what the demonstration talks to."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from loupe.runtime.ports import free_port
from loupe.runtime.stack import Stack, running_stack
from loupe.settings import load_settings


@contextmanager
def started_stack(model: str, folder: Path, console: Console) -> Iterator[Stack]:
    """Redis, a worker and the service with a model, on a free port, for as long as the block lasts.

    Their data and logs go into `folder`: the queue of whoever runs the demonstration has nothing to do with it.
    """
    settings = load_settings().model_copy(
        update={
            "model": model,
            "host": "127.0.0.1",
            "port": free_port(),
            "data_dir": folder / "data",
            "redis_url": None,
        }
    )
    started = time.monotonic()
    with ExitStack() as running:
        with console.status("starting Redis, a worker and the service"):
            stack = running.enter_context(running_stack(settings, threading.Event(), folder))
        console.print(
            f"started Redis, a worker and the service on {stack.url} in {time.monotonic() - started:.1f} s"
        )
        yield stack
        console.rule("[bold]5  stop")
