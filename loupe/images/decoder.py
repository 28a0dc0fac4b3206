"""A process that decodes pictures, one at a time and within limits, for `loupe.images.pool`.

It imports Pillow and NumPy, and nothing that opens files or connections.
"""

import json
import os
import resource
import select
import signal
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from loupe.errors import InvalidImage, LoupeError
from loupe.images.decode import open_picture
from loupe.images.header import estimated_bytes, kind_of, time_share, too_costly
from loupe.images.looks.ink import Symbols
from loupe.images.messages import receive, send
from loupe.images.pixels.opening import load_heif
from loupe.images.spec import ImageSpec, Normalize
from loupe.images.steps import Step

WALL_FACTOR = 2  # wall time per CPU time, on a busy machine
FIXED_BYTES = 64 * 2**20  # for tiles, the shrunken picture, and what Pillow keeps
NICENESS = 10
IMAGE, ERROR = b"\0", b"\1"  # first byte of an answer


def main(descriptor: int, seconds: float, in_background: bool) -> None:
    """Decode until the parent closes its end of the socket.

    Args:
        descriptor: Of the socket to the parent.
        seconds: CPU seconds for a large picture; others get a share.
        in_background: Whether to run at a low priority.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent stops its decoders
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, args=(descriptor,), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text("1000")  # before the parent
    if in_background:
        _lower_priority()
    parent = socket.socket(fileno=descriptor)
    send(parent, b"ready")
    limits = Limits(seconds)
    with suppress(EOFError, ConnectionResetError):
        while True:
            spec, max_pixels, *options = json.loads(receive(parent))
            data = receive(parent)
            answer = _answer(data, limits, max_pixels, ImageSpec(**spec), *options)
            send(parent, answer)


def _answer(
    data: bytes,
    limits: "Limits",
    max_pixels: int,
    spec: ImageSpec,
    normalize: Normalize,
    with_steps: bool,
    split: bool,
) -> bytes:
    if kind_of(data) == "HEIC":
        with suppress(InvalidImage):  # the picture's own error follows
            load_heif()  # its memory does not count for the picture
    limits.set(
        time_share(data, max_pixels),
        estimated_bytes(data, max_pixels) + 2 * len(data) + FIXED_BYTES,
    )
    try:
        picture = open_picture(data, max_pixels=max_pixels)
        if split:
            return IMAGE + _packed(picture.symbols(spec))
        steps: list[Step] | None = [] if with_steps else None
        image = picture.pixels(spec, normalize, steps)
        return IMAGE + image.tobytes() + json.dumps([asdict(step) for step in steps or ()]).encode()
    except MemoryError:
        error: LoupeError = too_costly("Decoding the picture takes too much memory.")
    except LoupeError as raised:
        error = raised
    finally:
        limits.lift()
    return ERROR + json.dumps(error.to_json()).encode()


def _packed(symbols: Symbols) -> bytes:
    """Return the boxes of symbols in a line of JSON, and their images after it."""
    boxes = json.dumps([box for _, box in symbols]).encode()
    return b"\n".join([boxes, b"".join(image.tobytes() for image, _ in symbols)])


class Limits:
    """Limits of time, after which the system kills this process, and of memory.

    Args:
        seconds: CPU seconds for a large picture; others get a share.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        if sys.platform == "linux":
            self._address_space = resource.getrlimit(resource.RLIMIT_AS)

    def set(self, time_share: float, more_bytes: int) -> None:
        """Start the limits of a picture: a share of the time, and bytes of memory."""
        signal.setitimer(signal.ITIMER_PROF, time_share * self._seconds)
        signal.setitimer(signal.ITIMER_REAL, WALL_FACTOR * self._seconds)
        if sys.platform == "linux":
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            used_bytes = pages * resource.getpagesize()
            limits = (used_bytes + more_bytes, self._address_space[1])
            resource.setrlimit(resource.RLIMIT_AS, limits)

    def lift(self) -> None:
        """End the time of a picture."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_AS, self._address_space)


def _die_with_parent(descriptor: int) -> None:
    """Exit when the parent has closed its end, even while a picture is decoded."""
    hung_up = select.poll()
    hung_up.register(descriptor, 0)
    hung_up.poll()
    os._exit(0)


def _lower_priority() -> None:
    """Run after event loop and engine, because a photo costs as much as many requests.

    On busy cores a tenth of one is left for a decoder. With SCHED_IDLE it would get nothing, and
    photos would run out of time.
    """
    os.nice(NICENESS)
    if sys.platform == "linux":
        with suppress(OSError):  # some sandboxes do not allow it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
