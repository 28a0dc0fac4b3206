"""Loupe's programs as child processes, and their environment."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import psutil

T = TypeVar("T")
PATIENCE_SECONDS = 50.0  # what needs 2 s on an idle machine; below the limit of one test


def environment(**variables: object) -> dict[str, str]:
    """Return this process's environment with more variables."""
    return {
        **os.environ,
        "COLUMNS": "80",
        **{name: str(value) for name, value in variables.items()},
    }


def run(*arguments: object, **variables: object) -> subprocess.CompletedProcess[str]:
    """Run `loupe …` until it exits."""
    return subprocess.run(
        [sys.executable, "-m", "loupe", *map(str, arguments)],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


@contextmanager
def running(
    log: Path, *arguments: object, **variables: object
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `loupe …` while the block runs; its output goes to a file."""
    with log.open("wb") as words:
        process = subprocess.Popen(
            [sys.executable, "-m", "loupe", *map(str, arguments)],
            env=environment(**variables),
            stdout=words,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)  # a stopped process would not see the next one
            process.kill()
        process.wait()


def until(condition: Callable[[], T | None]) -> T:
    """Poll a condition, and return its first true value."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise TimeoutError(f"{condition} has not come true in {PATIENCE_SECONDS:.0f} s")


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@dataclass(frozen=True)
class RunningService:
    """A service that is ready.

    Attributes:
        url: Where it listens, without a slash at the end.
        process: The service itself.
        log: Its output.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def serving(log: Path, **variables: object) -> Iterator[RunningService]:
    """Run a service, ready for requests, while the block runs."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running(log, "serve", "--port", port, **variables) as process:

        def ready() -> bool:
            if process.poll() is not None:
                raise RuntimeError(
                    f"the service ended with {process.returncode}: {log.read_text()}"
                )
            try:
                return httpx.get(f"{url}/readyz").status_code == 200
            except httpx.TransportError:
                return False

        until(ready)
        yield RunningService(url, process, log)


def descendants(pid: int) -> list[psutil.Process]:
    """Return all processes that a process has started."""
    return psutil.Process(pid).children(recursive=True)
