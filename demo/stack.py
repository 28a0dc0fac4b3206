"""Start what the demonstration talks to."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from loupe.processes import Stack, free_port, running_stack
from loupe.settings import load_settings


@contextmanager
def started_stack(model: str, logs: Path, console: Console) -> Iterator[Stack]:
    """Redis, a worker and the service with a model, on a free port, for as long as the block lasts."""
    settings = load_settings().model_copy(update={"model": model, "host": "127.0.0.1", "port": free_port()})
    started = time.monotonic()
    with console.status("starting Redis, a worker and the service"):
        context = running_stack(settings, threading.Event(), logs)
        stack = context.__enter__()
    try:
        console.print(f"started Redis, a worker and the service on {stack.url} in {time.monotonic() - started:.1f} s")
        yield stack
    finally:
        with console.status("stopping"):
            context.__exit__(None, None, None)
