"""Run Loupe's own programs as child processes: start them, wait until they are ready, stop them."""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from loupe.errors import ProgramFailed

logger = logging.getLogger(__name__)

START_SECONDS = 60.0  # the first start after an install reads everything from disk
POLL_SECONDS = 0.02
GRACE_SECONDS = 5.0  # to stop, beyond what a program needs to finish its work
PR_SET_PDEATHSIG = 1  # Source: linux/prctl.h
MAX_LOG_LINES = 15  # of a failed program, shown in the error


@dataclass(frozen=True)
class Program:
    """A child process.

    Attributes:
        name: How messages call it.
        process: The process.
        log: The file with its output; `None` if it writes to the terminal.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None

    def check(self) -> None:
        """Raise `ProgramFailed` if the process has ended."""
        code = self.process.poll()
        if code is not None:
            message = f"{self.name} ended with exit code {code}."
            if self.log is not None and self.log.exists():
                lines = self.log.read_text(errors="replace").splitlines()[-MAX_LOG_LINES:]
                message += " Its last lines:\n" + "\n".join(lines)
            raise ProgramFailed(message)


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    grace_seconds: float = GRACE_SECONDS,
    hurry: threading.Event | None = None,
    descriptors: Sequence[int] = (),
) -> Iterator[Program]:
    """Run a program while the block runs.

    Args:
        name: How messages call it.
        command: The program and its arguments.
        environment: Variables added to those of this process.
        log: File for its output; by default it writes to the terminal.
        grace_seconds: How long it may take to stop before it is killed.
        hurry: If it is set, the program gets SIGINT instead of SIGTERM, or a second SIGTERM.
        descriptors: Open files that it inherits.
    """
    with ExitStack() as files:
        output = files.enter_context(log.open("wb")) if log else None
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            # Ctrl-C in the terminal reaches only this process, which stops its children in order.
            start_new_session=True,
            preexec_fn=end_with_parent(),
            pass_fds=descriptors,
        )
    try:
        yield Program(name, process, log)
    finally:
        _stop(process, grace_seconds, hurry or threading.Event())


def end_with_parent() -> Callable[[], None]:
    """Return a function that makes a child get SIGTERM when the thread that started it ends.

    Pass it to `subprocess.Popen` as `preexec_fn`, or call it in a forked child. On systems other
    than Linux it does nothing.
    """
    if sys.platform != "linux":
        return lambda: None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def request_signal() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has ended before
            os._exit(1)

    return request_signal


def wait_until_ready(url: str, program: Program, stopping: threading.Event | None = None) -> None:
    """Return as soon as a URL answers 200.

    Raises:
        ProgramFailed: If the program ends first, or takes longer than `START_SECONDS`.
        KeyboardInterrupt: If `stopping` is set first.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        program.check()
        if stopping is not None and stopping.is_set():
            raise KeyboardInterrupt
        try:
            with urllib.request.urlopen(url, timeout=1):  # noqa: S310 - our own http address
                return
        except OSError:
            time.sleep(POLL_SECONDS)
    raise ProgramFailed(f"{program.name} was not ready within {START_SECONDS:g} s.")


def _stop(process: subprocess.Popen[bytes], seconds: float, hurry: threading.Event) -> None:
    """Ask a program to stop, then kill what is left of its session."""
    deadline = time.monotonic() + seconds
    hurries = hurry.is_set()
    process.send_signal(signal.SIGINT if hurries else signal.SIGTERM)
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if hurry.wait(POLL_SECONDS) and not hurries:
                hurries = True
                process.send_signal(signal.SIGTERM)
            elif hurries:
                time.sleep(POLL_SECONDS)
        if process.returncode is None:
            logger.warning("%s did not stop within %g s and is killed", process.args, seconds)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def stop_on_signals(
    stopping: threading.Event, hurry: threading.Event | None = None
) -> Iterator[None]:
    """Make SIGINT and SIGTERM set `stopping`, and SIGINT or a second one `hurry`, in the block."""

    def handle(number: int, _: FrameType | None) -> None:
        if hurry is not None and (number == signal.SIGINT or stopping.is_set()):
            hurry.set()
        stopping.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
