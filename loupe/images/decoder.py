"""A process that decodes pictures, one at a time and within limits, for `loupe.images.pool`.

It imports Pillow and NumPy, and nothing that opens files or connections.
"""

import json
import os
import resource
import select
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from loupe.errors import LoupeError
from loupe.images.decode import open_picture
from loupe.images.header import estimated_bytes, too_costly

WALL_FACTOR = 4  # wall time per CPU time, on a busy machine
FIXED_BYTES = 64 * 2**20  # for tiles, the shrunken picture, and what Pillow keeps
NICENESS = 10
IMAGE, ERROR = b"\0", b"\1"  # first byte of an answer


def main(socket: int, seconds: float, in_background: bool) -> None:
    """Decode until the parent closes its end of the socket.

    Args:
        socket: Descriptor of the socket to the parent.
        seconds: CPU seconds for one picture.
        in_background: Whether to run after all other processes.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent stops its decoders
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, args=(socket,), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text("1000")  # before the parent
    if in_background:
        _lower_priority()
    connection = Connection(socket)
    connection.send_bytes(b"ready")
    with suppress(EOFError, ConnectionResetError):
        while True:
            request = json.loads(connection.recv_bytes())
            connection.send_bytes(_answer(connection.recv_bytes(), seconds, **request))


def _answer(data: bytes, seconds: float, look: str | None, max_pixels: int) -> bytes:
    _limit(seconds, estimated_bytes(data, max_pixels) + 2 * len(data) + FIXED_BYTES)
    try:
        picture = open_picture(data, max_pixels=max_pixels)
        image = picture.unchanged() if look is None else picture.pixels(look)  # type: ignore[arg-type]
        return IMAGE + image.tobytes()
    except MemoryError:
        error: LoupeError = too_costly("Decoding the picture takes too much memory.")
    except LoupeError as raised:
        error = raised
    finally:
        _unlimit()
    return ERROR + json.dumps(error.to_json()).encode()


def _limit(seconds: float, more_bytes: int) -> None:
    """Let the system kill this process after so much time, and refuse it so much more memory."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WALL_FACTOR * seconds)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = pages * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _unlimit() -> None:
    for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
        signal.setitimer(timer, 0)
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _die_with_parent(socket: int) -> None:
    """Exit when the parent has closed its end, even while a picture is decoded."""
    hung_up = select.poll()
    hung_up.register(socket, 0)
    hung_up.poll()
    os._exit(0)


def _lower_priority() -> None:
    """Run after event loop and engine, because a photo costs as much as many requests.

    Linux treats a core that runs only SCHED_IDLE processes as free, so small requests do not queue
    behind a photo.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # some sandboxes do not allow it
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            return
    os.nice(NICENESS)
