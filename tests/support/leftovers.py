"""Processes that a test session started and did not end."""

import os
import time
import uuid

import psutil

VARIABLE = "TEST_SESSION_OF_LOUPE"  # inherited by all processes of a session
PATIENCE_SECONDS = 30.0  # an embedded Redis ends some seconds after its last user was killed


def mark_session() -> None:
    """Give all processes that start from now on the name of this session."""
    os.environ.setdefault(VARIABLE, uuid.uuid4().hex)


def end_leftovers(patience_seconds: float = PATIENCE_SECONDS) -> list[str]:
    """Wait until all marked processes have ended; kill and describe those that have not."""
    deadline = time.monotonic() + patience_seconds
    while (left := _marked()) and time.monotonic() < deadline:
        time.sleep(0.1)
    described = [f"{process.pid}: {' '.join(_command(process))}" for process in left]
    for process in left:
        process.kill()
    return described


def _marked() -> list[psutil.Process]:
    own = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    return [
        process
        for process in psutil.process_iter()
        if process.pid not in own
        and _session_of(process) == os.environ[VARIABLE]
        and not _is_tracker_of_session(process)
    ]


def _is_tracker_of_session(process: psutil.Process) -> bool:
    """Return whether a process is `multiprocessing`'s tracker, which ends with this process."""
    try:
        is_child = process.ppid() == os.getpid()
    except psutil.Error:
        return False
    return is_child and any(
        "multiprocessing.resource_tracker" in word for word in _command(process)
    )


def _session_of(process: psutil.Process) -> str | None:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.environ().get(VARIABLE)
    except psutil.Error:
        return None


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
