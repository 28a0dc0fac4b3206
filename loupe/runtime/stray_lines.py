"""Turn all lines on standard error into JSON, if the log of the program is JSON.

C libraries print past Python's log. A filter, this file as a separate program, reads what this
process and its children print, and passes on what is JSON already. It outlives a crash.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

STDERR = 2
FILTERED = "_LOUPE_STDERR"  # variable: the pipe to the filter, for children and after `exec`
MAX_LINE_BYTES = 2**20
EXIT_SECONDS = 2.0  # for the filter to pass on the last lines


def filter_stderr() -> None:
    """Send what this process and its children print to standard error through the filter."""
    if os.environ.get(FILTERED) == _pipe():
        return
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__], stdin=reading, start_new_session=True
    )
    os.close(reading)
    os.dup2(writing, STDERR)
    os.close(writing)
    os.environ[FILTERED] = _pipe()
    atexit.register(_finish, process)


def _pipe() -> str:
    status = os.fstat(STDERR)
    return f"{status.st_dev}:{status.st_ino}"


def _finish(process: "subprocess.Popen[bytes]") -> None:
    """Wait for the last lines: in a container, the filter ends with this process."""
    sys.stderr.flush()
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - no need for pathlib in the filter
        os.dup2(nowhere.fileno(), STDERR)
    try:
        process.wait(EXIT_SECONDS)
    except subprocess.TimeoutExpired:  # a child still has standard error open
        return


def main() -> None:
    """Copy lines until no program has the other end open."""
    for number in (signal.SIGINT, signal.SIGTERM):  # it ends after the program
        signal.signal(number, signal.SIG_IGN)
    while line := sys.stdin.buffer.readline(MAX_LINE_BYTES):
        if line.strip():
            os.write(STDERR, as_json(line))


def as_json(line: bytes) -> bytes:
    """Return a line as it is if it holds a JSON object, else in one."""
    try:
        if isinstance(json.loads(line), dict):
            return line if line.endswith(b"\n") else line + b"\n"
    except ValueError:
        pass
    return (
        json.dumps(
            {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "level": "warning",
                "logger": "stderr",
                "message": line.decode(errors="backslashreplace").rstrip(),
            }
        ).encode()
        + b"\n"
    )


if __name__ == "__main__":
    main()
