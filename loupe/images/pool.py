"""Processes that decode pictures.

A picture can take minutes, take gigabytes, or crash a codec. That costs its decoder, and is one
error; the next picture gets another decoder.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from multiprocessing.connection import wait
from queue import LifoQueue
from signal import SIGALRM, SIGKILL, SIGPROF
from typing import Literal, TypeAlias

import numpy as np

from loupe.errors import InvalidImage, LoupeError, ProgramFailed, ShuttingDown
from loupe.images.decode import open_quick
from loupe.images.decoder import IMAGE
from loupe.images.formats import File
from loupe.images.header import estimated_bytes, too_costly
from loupe.images.looks.ink import Symbols
from loupe.images.messages import receive, send
from loupe.images.spec import ImageSpec, Normalize, UInt8Array
from loupe.images.steps import Step

Loss: TypeAlias = Literal["time", "memory", "crash", "abandoned"]
"""Why a decoder was lost. `abandoned`: the picture was no longer needed."""

LARGE_BYTES = 128 * 2**20  # pictures that may take more are decoded one at a time
POLL_SECONDS = 0.2  # between checks whether the picture is still needed
PROGRAM = (
    "import json, sys; *options, sys.path = map(json.loads, sys.argv[1:]); "
    "from loupe.images.decoder import main; main(*options)"
)
# The decoder sees no other variables, since the environment may hold keys and passwords.
KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL")
VARIABLES = {
    "OPENBLAS_NUM_THREADS": "1",
    # Threads of a decoder would each reserve 64 MB, which count towards the memory of the picture.
    "MALLOC_ARENA_MAX": "1",
    # Fixed thresholds, so that the memory of a picture returns to the system after decoding.
    "MALLOC_MMAP_THRESHOLD_": "4194304",
    "MALLOC_TRIM_THRESHOLD_": "16777216",
}


class DecoderPool:
    """Decodes each picture in one of a few processes, which start when they are needed.

    Args:
        size: Maximum number of processes.
        seconds: CPU seconds for a large picture; others get a share.
        in_background: Whether decoders run at a low priority.
        on_loss: Called with the reason when a decoder was killed or crashed.
    """

    def __init__(
        self,
        size: int,
        seconds: float,
        *,
        in_background: bool = False,
        on_loss: Callable[[Loss], object] = lambda _: None,
    ) -> None:
        self._seconds = seconds
        self._on_loss = on_loss
        self._decoders = [_Decoder([seconds, in_background, sys.path]) for _ in range(size)]
        self._free: LifoQueue[_Decoder] = LifoQueue()  # those that run are reused first
        for decoder in self._decoders:
            self._free.put(decoder)
        self._large = threading.Lock()
        self._closed = False

    def decode(
        self,
        data: File,
        spec: ImageSpec,
        max_pixels: int,
        check: Callable[[], object] = lambda: None,
        *,
        normalize: Normalize = "auto",
        steps: list[Step] | None = None,
    ) -> UInt8Array:
        """Decode a picture; see `Picture.pixels`.

        Args:
            data: The file.
            spec: Images of the model.
            max_pixels: Maximum width × height of the picture.
            check: Raises if the picture is no longer needed; called while it is decoded.
            normalize: `off` for a picture that looks like the training data already.
            steps: Gets the steps of the normalizing.

        Raises:
            InvalidImage: If it cannot be decoded, or not within the limits (`image_too_costly`).
            ProgramFailed: If no decoder starts.
            ShuttingDown: If the pool has been closed.
        """
        options = [asdict(spec), normalize, steps is not None, False]
        content = self._content(options, data, max_pixels, check)
        if steps is not None:
            steps += [Step(**step) for step in json.loads(content[spec.nbytes :])]
        return np.frombuffer(content, np.uint8, spec.nbytes).reshape(spec.shape)

    def symbols(
        self,
        data: File,
        spec: ImageSpec,
        max_pixels: int,
        check: Callable[[], object] = lambda: None,
    ) -> Symbols:
        """Decode a picture and return its symbols; see `Picture.symbols`, and `decode`."""
        content = self._content([asdict(spec), "auto", False, True], data, max_pixels, check)
        boxes, _, pixels = content.partition(b"\n")
        images = np.frombuffer(pixels, np.uint8).reshape(-1, *spec.shape)
        return [(image, tuple(box)) for image, box in zip(images, json.loads(boxes), strict=True)]

    def symbols_safely(self, data: File, spec: ImageSpec, max_pixels: int) -> Symbols:
        """Return the symbols of a picture, in this process if that is certainly quick."""
        picture = open_quick(data, max_pixels=max_pixels)
        return self.symbols(data, spec, max_pixels) if picture is None else picture.symbols(spec)

    def decode_safely(
        self,
        data: File,
        spec: ImageSpec,
        max_pixels: int,
        *,
        normalize: Normalize = "auto",
        steps: list[Step] | None = None,
    ) -> UInt8Array:
        """Decode a picture as `decode` does, in this process if that is certainly quick."""
        picture = open_quick(data, max_pixels=max_pixels)
        if picture is None:
            return self.decode(data, spec, max_pixels, normalize=normalize, steps=steps)
        return picture.pixels(spec, normalize, steps)

    def close(self) -> None:
        """Kill all decoders. Calls in progress raise `ShuttingDown`."""
        self._closed = True
        for decoder in self._decoders:
            decoder.kill()
        free = [self._free.get() for _ in self._decoders]  # calls in progress return theirs
        for decoder in free:
            decoder.stop()
            self._free.put(decoder)

    def _content(
        self, options: Sequence[object], data: File, max_pixels: int, check: Callable[[], object]
    ) -> bytes:
        """Return what a decoder made of a picture, or raise its error."""
        spec, *others = options
        request = json.dumps([spec, max_pixels, *others]).encode()
        needs_turn = estimated_bytes(data, max_pixels) > LARGE_BYTES
        with _taken(self._large, check) if needs_turn else nullcontext():
            answer = self._ask(request, data, check)
        kind, content = answer[:1], answer[1:]
        if kind == IMAGE:
            return content
        refusal = json.loads(content)
        raise InvalidImage(refusal["error"], code=refusal["code"])

    def _ask(self, request: bytes, data: File, check: Callable[[], object]) -> bytes:
        decoder = self._free.get()
        try:
            check()
            if self._closed:
                raise _closed()
            try:
                decoder.start()
            except ProgramFailed as error:
                if self._closed:  # it was killed before it was ready
                    raise _closed() from error
                raise
            try:
                return decoder.ask(request, data, check)
            except (EOFError, OSError) as error:
                raise self._loss(decoder.stop()) from error
            except BaseException:  # of `check`
                decoder.stop()
                self._on_loss("abandoned")
                raise
        finally:
            self._free.put(decoder)

    def _loss(self, code: int | None) -> LoupeError:
        """Return the error for a picture whose decoder ended with an exit code."""
        if self._closed:
            return _closed()
        loss: Loss = "crash"
        message = "The decoder crashed on this picture."
        if code in (-SIGPROF, -SIGALRM):
            loss = "time"
            message = (
                "Decoding takes longer than a picture of this size may take "
                f"(LOUPE_DECODE_SECONDS is {self._seconds:g})."
            )
        elif code == -SIGKILL:
            loss = "memory"
            message = "The system killed the decoder of this picture, probably to free memory."
        self._on_loss(loss)
        return too_costly(message)


class _Decoder:
    """A process that decodes, and is replaced once it has died.

    Args:
        options: Arguments of `loupe.images.decoder.main` after its socket.
    """

    def __init__(self, options: Sequence[object]) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket
        self._end: Callable[[], object]

    def start(self) -> None:
        """Start the process unless it runs.

        Raises:
            ProgramFailed: If it does not start.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        self._socket, theirs = socket.socketpair()
        arguments = [json.dumps(value) for value in (theirs.fileno(), *self._options)]
        environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                env=environment | VARIABLES,
                pass_fds=[theirs.fileno()],
            )
        # Also for a pool that nobody closes.
        self._end = weakref.finalize(self, _end, self._process, self._socket)
        try:
            receive(self._socket)  # it is ready
        except (EOFError, OSError) as error:
            raise ProgramFailed(
                f"A process to decode pictures did not start (exit code {self.stop()})."
            ) from error

    def ask(self, request: bytes, data: File, check: Callable[[], object]) -> bytes:
        """Return the answer; raise what `check` raises, or `EOFError` or `OSError` if it died."""
        send(self._socket, request)
        send(self._socket, data)
        while not wait([self._socket], POLL_SECONDS):
            check()
        return receive(self._socket)

    def stop(self) -> int | None:
        """Kill the process, and return the code that it ended with, if it was started."""
        if self._process is None:
            return None
        self._end()
        return self._process.returncode

    def kill(self) -> None:
        """Kill the process; a thread that waits for its answer gets `EOFError`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _end(process: "subprocess.Popen[bytes]", end: socket.socket) -> None:
    process.kill()
    process.wait()
    end.close()


@contextmanager
def _taken(lock: threading.Lock, check: Callable[[], object]) -> Iterator[None]:
    """Hold a lock; call `check` while another thread holds it."""
    while not lock.acquire(timeout=POLL_SECONDS):
        check()
    try:
        yield
    finally:
        lock.release()


def _closed() -> ShuttingDown:
    return ShuttingDown("Pictures are no longer decoded, because the program stops.")
