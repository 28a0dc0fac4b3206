"""Start the programs under test and stop them, whatever happens in between."""

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.error import URLError

START_SECONDS = 60.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.01


@contextmanager
def running(command: list[str], **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process for as long as the block lasts, with more variables than ours; its output is shown if it fails."""
    with tempfile.TemporaryFile() as log:
        # A session of its own: Ctrl-C reaches only us, and we stop it in our order.
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        except BaseException:
            if process.poll():
                log.seek(0)
                print(log.read().decode(errors="replace")[-2000:])
            raise
        finally:
            _stop(process)


def wait_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    """Return as soon as a URL answers 200.

    Raises:
        RuntimeError: If the process ends before, or takes longer than `START_SECONDS`.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with exit code {process.returncode} before it was ready")
        if _answers(url):
            return
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"{process.args!r} was not ready within {START_SECONDS:.0f} s")


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - a URL of our own
            return bool(response.status == 200)
    except (URLError, OSError):
        return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask it to stop, then end its whole session."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
