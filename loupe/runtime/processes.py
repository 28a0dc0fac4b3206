"""Run Loupe's own programs as child processes: start them, wait until they work, stop them in order."""

import logging
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from loupe.old_errors.core import ProgramFailed

logger = logging.getLogger(__name__)

START_SECONDS = 60.0  # the first start after an install reads everything from disk
POLL_SECONDS = 0.02
GRACE_SECONDS = 5.0  # to stop in, beyond what a program needs to finish what it has in hand
LAST_WORDS = 15  # lines of a failed program's log that are shown


@dataclass(frozen=True)
class Program:
    """A child process.

    Attributes:
        name: What people call it.
        process: The process.
        log: Where its output goes; to the terminal if there is none.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None

    def check(self) -> None:
        """`ProgramFailed` if it has ended."""
        code = self.process.poll()
        if code is not None:
            raise ProgramFailed(self.name, f"ended with exit code {code}", self._last_words())

    def _last_words(self) -> str:
        if self.log is None or not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LAST_WORDS:])


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> Iterator[Program]:
    """Run a program for as long as the block lasts.

    Args:
        name: What people call it.
        command: What to run.
        environment: Variables it gets beside ours.
        log: File for its output; the terminal if not given.
        grace_seconds: How long it may take to stop before it is killed.
    """
    with ExitStack() as files:
        output = files.enter_context(log.open("wb")) if log else None
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,  # Ctrl-C in the terminal reaches only us, and we stop the programs in our order
        )
    try:
        yield Program(name, process, log)
    finally:
        _stop(process, grace_seconds)


def wait_until_ready(url: str, program: Program, stopping: threading.Event | None = None) -> None:
    """Return as soon as a URL answers 200.

    Raises:
        ProgramFailed: If the program ends before, or takes longer than `START_SECONDS`.
        KeyboardInterrupt: If `stopping` is set meanwhile.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        program.check()
        if stopping is not None and stopping.is_set():
            raise KeyboardInterrupt
        try:
            with urllib.request.urlopen(url, timeout=1):  # noqa: S310 - our own http address
                return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_SECONDS)
    raise ProgramFailed(program.name, f"was not ready within {START_SECONDS:g} s")


def _stop(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Ask a program to stop, then end what is left of its session."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        logger.warning("%s did not stop within %g s and is killed", process.args, seconds)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def stop_on_signals(stopping: threading.Event) -> Iterator[None]:
    """Make SIGINT and SIGTERM set `stopping` while the block runs."""
    before = {
        number: signal.signal(number, lambda *_: stopping.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
